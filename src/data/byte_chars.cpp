#include "data/byte_chars.h"

#include "data/utf8.h"

namespace conclave::data {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr int kChars = 0x100 + 68;  // characters are below this

struct ByteTables {
  std::array<uint8_t, 256> order;
  std::array<std::string, 256> chars;
  std::array<int16_t, kChars> bytes;  // −1: stands for none
};

const ByteTables& byte_tables() {
  static const ByteTables tables = [] {
    ByteTables t;
    t.bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      char32_t c = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
      append_utf8(t.chars[byte], c);
      t.bytes[c] = static_cast<int16_t>(byte);
    }
    size_t n = 0;
    for (int16_t byte : t.bytes)
      if (byte >= 0) t.order[n++] = static_cast<uint8_t>(byte);
    return t;
  }();
  return tables;
}

}  // namespace

const std::array<uint8_t, 256>& bytes_in_char_order() { return byte_tables().order; }

std::string to_byte_chars(std::string_view bytes) {
  std::string chars;
  for (char byte : bytes) chars += byte_tables().chars[static_cast<uint8_t>(byte)];
  return chars;
}

std::optional<std::string> from_byte_chars(std::string_view chars) {
  std::string bytes;
  for (size_t at = 0; at < chars.size();) {
    char32_t c = next_code_point(chars, at);
    if (c >= kChars || byte_tables().bytes[c] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_tables().bytes[c]);
  }
  return bytes;
}

}  // namespace conclave::data
