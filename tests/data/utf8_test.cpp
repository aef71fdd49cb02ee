#include "data/utf8.h"

#include <gtest/gtest.h>

namespace conclave::data {
namespace {

TEST(Utf8, FindsTheFirstByteThatIsNone) {
  EXPECT_EQ(invalid_utf8(""), std::string::npos);
  EXPECT_EQ(invalid_utf8("plain text of some length, é 漢 😀"), std::string::npos);
  EXPECT_EQ(invalid_utf8("\xF4\x8F\xBF\xBF"), std::string::npos);
  struct {
    const char* text;
    size_t at;
  } cases[] = {{"12345678\x80", 8},     {"a\xC3", 1},
               {"\xC0\xAF", 0},         {"ab\xED\xA0\x80", 2},
               {"\xE0\x9F\xBF", 0},     {"\xF0\x8F\xBF\xBF", 0},
               {"\xF4\x90\x80\x80", 0}, {"\xF5\x80\x80\x80", 0},
               {"x\xE6\xBC", 1}};
  for (auto [text, at] : cases) EXPECT_EQ(invalid_utf8(text), at) << text;
}

// The examples of the Unicode Standard, 3.9, and of Rust's documentation.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(to_utf8_lossy("Hello \xF0\x90\x80World"), "Hello " + r + "World");
  EXPECT_EQ(to_utf8_lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(to_utf8_lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(to_utf8_lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(to_utf8_lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(to_utf8_lossy("é漢"), "é漢");
}

TEST(Utf8, CodePointsThereAndBack) {
  for (char32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 37) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    size_t at = 0;
    ASSERT_EQ(invalid_utf8(text), std::string::npos) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(next_code_point(text, at), c);
    ASSERT_EQ(at, text.size());
  }
}

}  // namespace
}  // namespace conclave::data
