#include "recipes/tokenize.h"

#include <cstdio>
#include <filesystem>

#include "base/human.h"
#include "base/log.h"
#include "base/timer.h"
#include "data/jsonl.h"
#include "recipes/train_tokenizer_config.h"

namespace conclave::recipes {

void tokenize(const std::string& tokenizer, const std::string& in, const std::string& out) {
  const bool folder = std::filesystem::is_directory(tokenizer);
  data::tokenize_jsonl(data::Tokenizer::load(folder ? tokenizer + "/tokenizer.json" : tokenizer),
                       in, out);
}

int train_tokenizer(const std::string& config_path, const std::vector<std::string>& sets,
                    bool dry_run) {
  const auto config = read_config<TrainTokenizerConfig>(config_path, sets, "train-tokenizer");
  const TrainTokenizerConfig& c = config.value;
  config.source.require("output");
  config.source.require("text.paths");
  data::BpeTrainer trainer(c.training);
  if (dry_run) {
    std::fputs(dump_config(c).c_str(), stdout);
    return 0;
  }
  Timer timer;
  const data::Corpus corpus(c.text);
  corpus.for_each("reading text", [&](int64_t index, std::string_view text) {
    if (!corpus.held_out(index)) trainer.add(text);
  });
  trainer.train().save(c.output);
  log_info("tokenizer of " + std::to_string(c.training.vocab_size) + " tokens from " +
           human_bytes(static_cast<double>(corpus.bytes())) + " of text in " +
           human_duration(timer.seconds()) + ": " + c.output + "/tokenizer.json");
  return 0;
}

}  // namespace conclave::recipes
