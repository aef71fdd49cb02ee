#include "data/added_tokens.h"

#include <algorithm>

namespace conclave::data {

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  auto first = [](const AddedToken& token) { return static_cast<uint8_t>(token.content[0]); };
  std::stable_sort(tokens_.begin(), tokens_.end(), [&](const auto& a, const auto& b) {
    return first(a) != first(b) ? first(a) < first(b) : a.content.size() > b.content.size();
  });
  for (uint32_t begin = 0, end; begin < tokens_.size(); begin = end) {
    for (end = begin; end < tokens_.size() && first(tokens_[end]) == first(tokens_[begin]);) ++end;
    by_byte_[first(tokens_[begin])] = {begin, end};
  }
}

AddedTokenFinder::Found AddedTokenFinder::find(std::string_view text, size_t from,
                                               bool allow_special) const {
  if (!tokens_.empty())
    for (size_t at = from; at < text.size(); ++at) {
      auto [begin, end] = by_byte_[static_cast<uint8_t>(text[at])];
      for (; begin < end; ++begin) {
        const AddedToken& token = tokens_[begin];
        if (!text.substr(at).starts_with(token.content)) continue;
        if (token.special && !allow_special) continue;
        return {at, at + token.content.size(), &token};
      }
    }
  return {text.size(), text.size(), nullptr};
}

}  // namespace conclave::data
