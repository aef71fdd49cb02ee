// Tokenized documents in memory, and their cache on disk.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/text.h"
#include "data/tokenizer.h"

namespace conclave::data {

struct TokenizedText {
  std::vector<int32_t> ids;  // documents one after the other, each closed by the end-of-text token
  std::vector<int64_t> doc_offsets = {0};  // docs + 1 ascending
  uint64_t bytes = 0;                      // of the documents' text, for bits per byte
  int64_t docs() const { return static_cast<int64_t>(doc_offsets.size()) - 1; }
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  std::span<const int32_t> doc(int64_t d) const {
    return {ids.data() + doc_offsets[d], static_cast<size_t>(doc_offsets[d + 1] - doc_offsets[d])};
  }
};

struct TokenizedCorpus {
  std::shared_ptr<const TokenizedText> train, validation;
  int32_t eos = 0;
  bool from_cache = false;
};

// Tokenizes every document (special tokens in its text are plain text) and closes it with `eos`, a
// token of the tokenizer. With a cache_folder (made if need be) the result is kept in
// FOLDER/KEY.tokens, KEY a hash of the inputs, the tokenizer and eos: a second call reads it and
// tokenizes nothing. A cache that is damaged is made again, with a warning; one that cannot be
// written is a warning. Throws RunError as Corpus does, and if training or validation (with a rule
// that asks for some) is left without a document.
TokenizedCorpus tokenize_corpus(const TextConfig& config, const Tokenizer& tokenizer,
                                const std::string& eos, const std::string& cache_folder);

}  // namespace conclave::data
