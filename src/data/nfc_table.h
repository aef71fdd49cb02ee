// The tables behind data/nfc.h, as words with a space after each; nfc_table.cpp says how they read.
#pragma once

namespace conclave::data {

extern const char* const kNfcPairs;
extern const char* const kNfcSingles;
extern const char* const kNfcMarks;

}  // namespace conclave::data
