// Trains a byte-level BPE vocabulary: words by the pattern of Qwen2, then again and again the most
// frequent pair of neighbours becomes a token. The same documents in the same order give the same
// bytes of the same file.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace conclave::data {

struct TokenizerTraining {
  int64_t vocab_size = 2048;  // exact: 256 bytes + merges + special tokens
  std::vector<std::string> special_tokens = {
      "<|endoftext|>"};  // the last ids; the first of them ends a document
  void fields(auto& f) {
    f("vocab_size", vocab_size, "tokens in all: 256 bytes, merges, special tokens");
    f("special_tokens", special_tokens, "tokens beside the text's; the first one ends a document");
  }
};

// Ids: the 256 bytes in the order of their characters, the merges in the order they were made, the
// special tokens.
struct TrainedTokenizer {
  std::vector<std::string> tokens;                  // the bytes of each token but the special ones
  std::vector<std::pair<int32_t, int32_t>> merges;  // merge i makes token 256 + i
  std::vector<std::string> special_tokens;

  std::string to_json() const;  // tokenizer.json
  // Writes tokenizer.json and tokenizer_config.json into `folder`, which is made if it is not
  // there; each file as a whole or not at all.
  void save(const std::string& folder) const;
};

class BpeTrainer {
 public:
  // Throws ConfigError for a vocab_size that leaves no room for a merge, and for special tokens
  // that are none, empty, or twice there.
  explicit BpeTrainer(TokenizerTraining config);
  ~BpeTrainer();
  void add(std::string_view document);  // well-formed UTF-8; counts its words
  // Ties: the higher count, then the smaller left id, then the smaller right id. Only pairs seen at
  // least twice are merged: throws ConfigError with the largest possible vocab_size if the text has
  // too few. Progress is shown.
  TrainedTokenizer train();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::data
