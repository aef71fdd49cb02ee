// A small vocabulary for tests, and its tokenizer.json.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "data/bpe_trainer.h"
#include "data/tokenizer.h"

namespace conclave::data {

inline const char* const kSample =
    "the cat sat on the mat, and the other cat sat there; the cats' mats aren't the theatre's.\n"
    "Don't count 12345 or 2024!  Two  spaces,\ttabs\r\nand lines.\n\n";

inline TrainedTokenizer sample_training(int64_t vocab_size = 280) {
  BpeTrainer trainer({.vocab_size = vocab_size});
  for (int i = 0; i < 2; ++i) trainer.add(kSample);  // every pair of it is seen twice
  return trainer.train();
}

inline nlohmann::json sample_json() { return nlohmann::json::parse(sample_training().to_json()); }
inline Tokenizer tokenizer_of(const nlohmann::json& json) {
  return Tokenizer::parse(json.dump(), "t.json");
}

}  // namespace conclave::data
