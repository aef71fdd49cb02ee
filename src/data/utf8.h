// UTF-8: checks, and decoding that repairs.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace conclave::data {

// The offset of the first byte that no well-formed UTF-8 has there, or npos. Overlong forms,
// surrogates and code points above U+10FFFF are not well-formed.
size_t invalid_utf8(std::string_view text);

// `bytes` with each maximal part that is no UTF-8 replaced by U+FFFD (Unicode 15, 3.9, "maximal
// subparts"; Rust's from_utf8_lossy).
std::string to_utf8_lossy(std::string_view bytes);

// The code point at text[at], text being well-formed; `at` moves behind it.
char32_t next_code_point(std::string_view text, size_t& at);
void append_utf8(std::string& text, char32_t code_point);

}  // namespace conclave::data
