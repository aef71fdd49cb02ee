// Unicode normalization form C: characters composed as far as they have a composed form, marks in
// canonical order. Source: Unicode Standard Annex 15; data of Unicode 9, as the `tokenizers`
// package has it.
#pragma once
#include <string>
#include <string_view>

namespace conclave::data {

// `text` is well-formed UTF-8. Text without a character from U+0300 on is returned as it is.
std::string to_nfc(std::string_view text);

}  // namespace conclave::data
