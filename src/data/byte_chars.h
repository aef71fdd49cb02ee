// Byte-level vocabularies write each byte as one printable character: 188 bytes as the Latin-1
// character of their own number, the other 68 as U+0100, U+0101, … in ascending order. Source:
// GPT-2, bytes_to_unicode.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace conclave::data {

// The 256 bytes in the order of their characters: first '!', last 0xAD.
const std::array<uint8_t, 256>& bytes_in_char_order();

std::string to_byte_chars(std::string_view bytes);
// Undoes to_byte_chars; nothing if a character stands for no byte. `chars` is well-formed UTF-8.
std::optional<std::string> from_byte_chars(std::string_view chars);

}  // namespace conclave::data
