#include "data/byte_chars.h"

#include <gtest/gtest.h>

#include <set>

namespace conclave::data {
namespace {

TEST(ByteChars, AllBytesThereAndBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(from_byte_chars(to_byte_chars(all)), all);
  EXPECT_EQ(to_byte_chars(" a\n\xAD"), "ĠaĊŃ");
  EXPECT_EQ(from_byte_chars(" "), std::nullopt);  // a space stands for no byte
  EXPECT_EQ(from_byte_chars("漢"), std::nullopt);
}

TEST(ByteChars, OrderIsThatOfTheCharacters) {
  const auto& order = bytes_in_char_order();
  EXPECT_EQ(order[0], '!');
  EXPECT_EQ(order[94], 0xA1);
  EXPECT_EQ(order[188], 0);
  EXPECT_EQ(order[255], 0xAD);
  EXPECT_EQ(std::set<uint8_t>(order.begin(), order.end()).size(), 256u);
}

}  // namespace
}  // namespace conclave::data
