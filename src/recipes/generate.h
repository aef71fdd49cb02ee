// `conclave generate`: text from a model folder.
#pragma once
#include <string>
#include <vector>

#include "base/config.h"

namespace conclave::recipes {

struct GenerateConfig {
  std::string model;
  std::string prompt;
  int64_t max_tokens = 200;
  int64_t samples = 1;
  double temperature = 0.8;
  double top_p = 0.95;
  int64_t seed = 1;
  std::string device = "auto";
  std::string dtype = "fp32";
  int64_t threads = 0;

  void fields(auto& f) {
    f("model", model, "a model folder with its tokenizer.json, such as RUN/latest");
    f("prompt", prompt, "text to go on from; empty: the start of a document");
    f("max_tokens", max_tokens, "tokens to make at most; a document's end stops earlier",
      at_least(1));
    f("samples", samples, "how many texts, each with random numbers of its own", at_least(1));
    f("temperature", temperature, "0: always the likeliest token; 1: as the model says",
      not_negative);
    f("top_p", top_p, "draw from the likeliest tokens that together have this probability",
      within(0, 1));
    f("seed", seed, "of the drawing", not_negative);
    f("device", device, "auto: a GPU where there is one", one_of({"auto", "cpu", "cuda"}));
    f("dtype", dtype, "to compute in", one_of({"fp32", "bf16", "fp64"}));
    f("threads", threads, "CPU threads; 0: all cores", not_negative);
  }
};

// Prints the text to standard output as it comes. An empty config_path: `sets` alone. Returns the
// exit status.
int generate(const std::string& config_path, const std::vector<std::string>& sets, bool dry_run);

}  // namespace conclave::recipes
