// What a tokenizer.json says, checked.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/pre_tokenizer.h"

namespace conclave::data {

struct TokenizerFile {
  bool nfc = false;
  PreTokenizer pre_tokenizer;
  std::unordered_map<std::string, int32_t> ids;  // every token as the file writes it
  std::vector<std::string> texts;   // by id: the bytes that decode() gives; empty: no such token
  std::vector<std::string> tokens;  // by id: the bytes the model has the token for, for Bpe
  std::vector<Merge> merges;
  bool ignore_merges = false;
  std::vector<AddedToken> added;
};

// Throws RunError naming `file` and the key for what is damaged or not taken (data/tokenizer.h).
TokenizerFile read_tokenizer_file(std::string_view json, const std::string& file);

}  // namespace conclave::data
