#include "data/utf8.h"

#include <cstring>

namespace conclave::data {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Sequence {
  size_t length;  // of the well-formed sequence, else of the maximal subpart, at least 1
  bool valid;
};

// The ranges of Unicode 15, table 3-7: the lead byte says how many bytes follow and narrows the
// first of them.
Sequence sequence_at(std::string_view text, size_t at) {
  auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true};
  size_t follow = lead >= 0xC2 && lead <= 0xDF   ? 1
                  : lead >= 0xE0 && lead <= 0xEF ? 2
                  : lead >= 0xF0 && lead <= 0xF4 ? 3
                                                 : 0;
  if (follow == 0) return {1, false};
  uint8_t lo = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t hi = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i <= follow; ++i) {
    if (at + i >= text.size() || byte(i) < lo || byte(i) > hi) return {i, false};
    lo = 0x80, hi = 0xBF;
  }
  return {follow + 1, true};
}

// The next byte at or after `at` that is not ASCII, or the end.
size_t skip_ascii(std::string_view text, size_t at) {
  for (uint64_t eight; at + 8 <= text.size(); at += 8) {
    std::memcpy(&eight, text.data() + at, 8);
    if (eight & 0x8080808080808080) break;
  }
  while (at < text.size() && static_cast<uint8_t>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

size_t invalid_utf8(std::string_view text) {
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    Sequence sequence = sequence_at(text, at);
    if (!sequence.valid) return at;
    at += sequence.length;
  }
  return text.npos;
}

std::string to_utf8_lossy(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    size_t ascii = skip_ascii(bytes, at);
    text += bytes.substr(at, ascii - at);
    at = ascii;
    if (at == bytes.size()) break;
    Sequence sequence = sequence_at(bytes, at);
    text += sequence.valid ? bytes.substr(at, sequence.length) : kReplacement;
    at += sequence.length;
  }
  return text;
}

char32_t next_code_point(std::string_view text, size_t& at) {
  auto byte = [&] { return static_cast<uint8_t>(text[at++]); };
  uint8_t lead = byte();
  if (lead < 0x80) return lead;
  int follow = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  char32_t code_point = lead & (0x3F >> follow);
  for (; follow > 0; --follow) code_point = code_point << 6 | (byte() & 0x3F);
  return code_point;
}

void append_utf8(std::string& text, char32_t c) {
  auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xE0 | c >> 12);
    } else {
      put(0xF0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3F));
    }
    put(0x80 | (c >> 6 & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

}  // namespace conclave::data
