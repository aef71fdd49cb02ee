#include "data/added_tokens.h"

#include <gtest/gtest.h>

namespace conclave::data {
namespace {

std::string found(const AddedTokenFinder& finder, std::string_view text,
                  bool allow_special = true) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    auto next = finder.find(text, at, allow_special);
    out += text.substr(at, next.begin - at);
    if (next.token) out += "[" + std::to_string(next.token->id) + "]";
    at = next.end;
  }
  return out;
}

TEST(AddedTokens, LeftmostThenLongest) {
  AddedTokenFinder finder(
      {{"ab", 0}, {"abcd", 1}, {"bc", 2}, {"d", 3}, {"<s>", 4, true}, {"é", 5}});
  EXPECT_EQ(found(finder, "xabcdx"), "x[1]x");
  EXPECT_EQ(found(finder, "abc"), "[0]c");
  EXPECT_EQ(found(finder, "xbcab"), "x[2][0]");
  EXPECT_EQ(found(finder, "abcddé"), "[1][3][5]");
  EXPECT_EQ(found(finder, "<s><s"), "[4]<s");
  EXPECT_EQ(found(finder, "<s>d", false), "<s>[3]");
  EXPECT_EQ(found(AddedTokenFinder(), "text"), "text");
}

}  // namespace
}  // namespace conclave::data
