// The YAML of `conclave train-tokenizer`.
#pragma once
#include <string>

#include "base/config.h"
#include "data/bpe_trainer.h"
#include "data/text.h"

namespace conclave::recipes {

struct TrainTokenizerConfig {
  std::string output;
  data::TextConfig text;
  data::TokenizerTraining training;
  void fields(auto& f) {
    f("output", output, "folder for tokenizer.json and tokenizer_config.json");
    f("text", text, "what it learns from; documents held out for validation are left out");
    f("training", training, "the vocabulary");
  }
};

}  // namespace conclave::recipes
