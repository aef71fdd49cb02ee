// Tokens outside the model, found in the text before it is cut: leftmost first, at one place the
// longest.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace conclave::data {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool normalized = false;  // looked for in the normalized text instead of the text as it came
};

class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  struct Found {
    size_t begin = 0, end = 0;
    const AddedToken* token = nullptr;  // null: none from here on
  };
  // The first token at or after `from`; special ones are passed over unless allow_special.
  Found find(std::string_view text, size_t from, bool allow_special) const;

 private:
  std::vector<AddedToken> tokens_;  // by first byte, then the longest first
  std::array<std::pair<uint32_t, uint32_t>, 256>
      by_byte_{};  // tokens_[first, second) start with this byte
};

}  // namespace conclave::data
