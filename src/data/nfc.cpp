#include "data/nfc.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/nfc_table.h"
#include "data/utf8.h"

namespace conclave::data {
namespace {

// Hangul syllables are made of a leading consonant, a vowel and perhaps a trailing consonant by
// arithmetic (Unicode 15, 3.12).
constexpr char32_t kL = 0x1100, kV = 0x1161, kT = 0x11A7, kS = 0xAC00;
constexpr char32_t kLs = 19, kVs = 21, kTs = 28, kSs = kLs * kVs * kTs;

struct NfcTables {
  std::unordered_map<char32_t, std::pair<char32_t, char32_t>> parts;  // second 0: a single
  std::unordered_map<uint64_t, char32_t> wholes;                      // first << 32 | second
  std::unordered_map<char32_t, uint8_t> classes;
  std::vector<bool> awkward = std::vector<bool>(0x110000);  // see to_nfc
};

// The next number of a table; `at` moves behind the one character after it, which is returned.
char read_number(const char*& at, char32_t& number) {
  char* end;
  number = static_cast<char32_t>(std::strtoul(at, &end, 16));
  at = end + 1;
  return *end;
}

const NfcTables& tables() {
  static const NfcTables tables = [] {
    NfcTables t;
    char32_t a, b = 0, c = 0;
    for (const char* at = kNfcPairs; *at;) {
      if (char mark = read_number(at, a); mark == ':') {
        b = a;
        while (*at == ' ') ++at;
        continue;
      } else {
        read_number(at, c);
        t.parts[c] = {a, b};
        t.awkward[b] = true;
        if (mark == '>') t.awkward[c] = true;
        if (mark == '=') t.wholes[uint64_t{a} << 32 | b] = c;
      }
    }
    for (const char* at = kNfcSingles; *at;) {
      if (read_number(at, a) == ':') {
        c = a;
        while (*at == ' ') ++at;
      } else {
        t.awkward[c] = true;
        t.parts[c++] = {a, 0};
      }
    }
    for (const char* at = kNfcMarks; *at;) {
      char32_t last, klass;
      if (read_number(at, a) == '-') {
        read_number(at, last);
      } else {
        last = a;
      }
      read_number(at, klass);
      for (; a <= last; ++a) {
        t.classes[a] = static_cast<uint8_t>(klass);
        t.awkward[a] = true;
      }
    }
    for (char32_t v = kV; v < kV + kVs; ++v) t.awkward[v] = true;
    for (char32_t tail = kT + 1; tail < kT + kTs; ++tail) t.awkward[tail] = true;
    return t;
  }();
  return tables;
}

uint8_t class_of(char32_t c) {
  auto found = tables().classes.find(c);
  return found == tables().classes.end() ? 0 : found->second;
}

void decompose(char32_t c, std::vector<char32_t>& out) {
  if (c >= kS && c < kS + kSs) {
    char32_t s = c - kS;
    out.push_back(kL + s / (kVs * kTs));
    out.push_back(kV + s / kTs % kVs);
    if (s % kTs) out.push_back(kT + s % kTs);
    return;
  }
  auto found = tables().parts.find(c);
  if (found == tables().parts.end()) return out.push_back(c);
  decompose(found->second.first, out);
  if (found->second.second) decompose(found->second.second, out);
}

char32_t compose(char32_t a, char32_t b) {  // 0: they do not
  if (a >= kL && a < kL + kLs && b >= kV && b < kV + kVs)
    return kS + ((a - kL) * kVs + (b - kV)) * kTs;
  if (a >= kS && a < kS + kSs && (a - kS) % kTs == 0 && b > kT && b < kT + kTs) return a + (b - kT);
  auto found = tables().wholes.find(uint64_t{a} << 32 | b);
  return found == tables().wholes.end() ? 0 : found->second;
}

// Marks between two characters of class 0 in the order of their classes, else as they came.
void order_marks(std::vector<char32_t>& chars) {
  auto lower = [](char32_t a, char32_t b) { return class_of(a) < class_of(b); };
  for (size_t begin = 0, end; begin < chars.size(); begin = end + 1) {
    for (end = begin; end < chars.size() && class_of(chars[end]) != 0;) ++end;
    std::stable_sort(chars.begin() + begin, chars.begin() + end, lower);
  }
}

void compose_all(std::vector<char32_t>& chars) {
  size_t kept = 0, starter = 0;
  bool has_starter = false;
  int before = -1;  // class of the last kept character behind the starter; -1: there is none
  for (char32_t c : chars) {
    int klass = class_of(c);
    if (has_starter && before < klass)
      if (char32_t whole = compose(chars[starter], c)) {
        chars[starter] = whole;
        continue;
      }
    if (klass == 0) {
      starter = kept;
      has_starter = true;
      before = -1;
    } else {
      before = klass;
    }
    chars[kept++] = c;
  }
  chars.resize(kept);
}

std::string normalized(std::string_view text) {
  std::vector<char32_t> chars;
  for (size_t at = 0; at < text.size();) decompose(next_code_point(text, at), chars);
  order_marks(chars);
  compose_all(chars);
  std::string out;
  for (char32_t c : chars) append_utf8(out, c);
  return out;
}

}  // namespace

// Awkward is a character that is a mark, may join what stands before it, or is never left as it is.
// Any other is a border: what stands before it does not depend on what follows (UAX 15, 9.1). So
// each run of awkward ones is normalized with the character before it, and the rest is copied.
std::string to_nfc(std::string_view text) {
  const std::vector<bool>& awkward = tables().awkward;
  std::string out;
  size_t copied = 0, border = 0;  // the last border
  for (size_t at = 0; at < text.size();) {
    const auto lead = static_cast<uint8_t>(text[at]);
    if (lead < 0xCC) {  // below U+0300 nothing is awkward
      border = at;
      at += lead < 0x80 ? 1 : 2;
      continue;
    }
    size_t end = at;
    if (!awkward[next_code_point(text, end)]) {
      border = at;
      at = end;
      continue;
    }
    for (size_t next = end; next < text.size(); end = next)
      if (!awkward[next_code_point(text, next)]) break;
    out += text.substr(copied, border - copied);
    out += normalized(text.substr(border, end - border));
    copied = border = at = end;
  }
  out += text.substr(copied);
  return out;
}

}  // namespace conclave::data
