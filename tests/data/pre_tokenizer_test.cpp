#include "data/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/regex.h"

namespace conclave::data {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

Words words(const char* pattern, std::string_view text) {
  Words words;
  split_step(pattern, SplitBehavior::isolated, false)->split(text, words);
  return words;
}

TEST(PreTokenizer, SplitsAsGpt2) {
  EXPECT_THAT(words(kGpt2Pattern, "I'll say: don't!  x  123abc\n\n y "),
              ElementsAre("I", "'ll", " say", ":", " don", "'t", "!", " ", " x", " ", " 123", "abc",
                          "\n\n", " y", " "));
  EXPECT_THAT(words(kGpt2Pattern, "I'LL"), ElementsAre("I", "'", "LL"));
}

TEST(PreTokenizer, SplitsAsQwen2) {
  EXPECT_THAT(words(kQwen2Pattern, "I'LL say:\r\n 12 (漢字é) \n  \n  z  "),
              ElementsAre("I", "'LL", " say", ":\r\n", " ", "1", "2", " (", "漢字é", ")", " \n  \n",
                          " ", " z", "  "));
}

// White_Space holds U+0085 and U+3000, but since Unicode 6.3 not U+180E.
TEST(PreTokenizer, SpaceIsWhiteSpace) {
  EXPECT_THAT(words(R"(\s+)", "a\u0085\u3000b\u180Ec"),
              ElementsAre("a", "\u0085\u3000", "b\u180Ec"));
  EXPECT_THAT(words(R"([^\S]+)", "a\u2003b"), ElementsAre("a", "\u2003", "b"));
}

TEST(PreTokenizer, RemovesMatchesOrGaps) {
  Words kept;
  split_step(R"(\s+)", SplitBehavior::removed, false)->split(" a b ", kept);
  EXPECT_THAT(kept, ElementsAre("a", "b"));
  kept.clear();
  split_step(R"(\p{L})", SplitBehavior::removed, true)->split("1ab 2c", kept);
  EXPECT_THAT(kept, ElementsAre("a", "b", "c"));
}

TEST(PreTokenizer, LongRunsAreOneWord) {
  for (const char* pattern : {kGpt2Pattern, kQwen2Pattern})
    for (char c : {'a', ' ', '!', '\n'})
      EXPECT_EQ(words(pattern, std::string(1 << 20, c)).size(), 1u) << pattern << int{c};
}

TEST(PreTokenizer, ReadsChains) {
  json chain = json::parse(R"({"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}]})");
  Words words;
  read_pre_tokenizer(chain, "t.json").split("ab 12 c", words);
  EXPECT_THAT(words, ElementsAre("ab", " ", "1", "2", " c"));
  read_pre_tokenizer(chain, "t.json").split("", words);
  EXPECT_TRUE(words.empty());
}

TEST(PreTokenizer, RefusesWithFileAndKey) {
  auto message = [](const char* text) {
    try {
      read_pre_tokenizer(json::parse(text), "t.json");
    } catch (const RunError& error) {
      return std::string(error.what());
    }
    return std::string("nothing thrown");
  };
  const char* byte_level =
      R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})";
  EXPECT_THAT(message("null"), HasSubstr("t.json: `pre_tokenizer`: expected an object, got null"));
  EXPECT_THAT(message(R"({"type": "Metaspace"})"), HasSubstr("`pre_tokenizer.type`"));
  EXPECT_THAT(message(R"({"type": "ByteLevel", "add_prefix_space": true})"),
              HasSubstr("`pre_tokenizer.add_prefix_space`: expected false"));
  auto split = [&](const std::string& parts) {
    return message((R"({"type": "Sequence", "pretokenizers": [{"type": "Split", )" + parts + "}, " +
                    byte_level + "]}")
                       .c_str());
  };
  EXPECT_THAT(split(R"("pattern": {"String": " "}, "behavior": "Isolated", "invert": false)"),
              HasSubstr("`pre_tokenizer.pretokenizers[0].pattern`: expected {\"Regex\""));
  EXPECT_THAT(split(R"("pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": false)"),
              HasSubstr("missing closing parenthesis"));
  EXPECT_THAT(split(R"("pattern": {"Regex": "a*"}, "behavior": "Isolated", "invert": false)"),
              HasSubstr("may match an empty text"));
  EXPECT_THAT(split(R"("pattern": {"Regex": "\\w+"}, "behavior": "Isolated", "invert": false)"),
              HasSubstr("the escape \\w is not taken"));
  EXPECT_THAT(split(R"("pattern": {"Regex": "a"}, "behavior": "Contiguous", "invert": false)"),
              HasSubstr("`pre_tokenizer.pretokenizers[0].behavior`"));
  EXPECT_THAT(message(R"({"type": "Sequence", "pretokenizers": []})"),
              HasSubstr("a ByteLevel as its last step"));
}

}  // namespace
}  // namespace conclave::data
