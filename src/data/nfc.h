// Unicode normalization form C: characters composed as far as they have a composed form, marks in
// canonical order. Source: Unicode Standard Annex 15; data of Unicode 9, as the `tokenizers`
// package has it.
#pragma once
#include <string>
#include <string_view>

namespace conclave::data {

// `text` is well-formed UTF-8.
std::string to_nfc(std::string_view text);

}  // namespace conclave::data
