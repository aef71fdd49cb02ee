#include "data/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdexcept>

#include "base/error.h"
#include "base/text.h"
#include "data/utf8.h"

namespace conclave::data {
namespace {

std::string message_of(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// The pattern as PCRE2 reads it. Its own \s also takes U+180E, which is no White_Space since
// Unicode 6.3; \w, \b and \h mean other sets in Oniguruma, and no published pattern needs them.
std::string for_pcre2(const std::string& pattern) {
  constexpr std::string_view kLetters = "pPdDrntfvx";
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\') {
      out += pattern[i];
      continue;
    }
    if (++i == pattern.size()) throw std::invalid_argument("ends in a backslash");
    char c = pattern[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (c == 's' || c == 'S') {
      out += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
    } else if (c == 'v') {
      out += "\\x0b";
    } else if (!letter || kLetters.find(c) != kLetters.npos) {
      out += '\\';
      out += c;
    } else {
      throw std::invalid_argument(std::string("the escape \\") + c + " is not taken");
    }
  }
  return out;
}

// A thread's memory for backtracking: the 32 KiB that PCRE2 takes by itself are little for long
// words.
pcre2_match_context* match_context() {
  struct Context {
    pcre2_match_context* match = pcre2_match_context_create(nullptr);
    pcre2_jit_stack* stack = pcre2_jit_stack_create(64 << 10, 64 << 20, nullptr);
    Context() {
      if (match == nullptr || stack == nullptr) throw std::bad_alloc();
      pcre2_jit_stack_assign(match, nullptr, stack);
      pcre2_set_match_limit(match, ~uint32_t{0});
    }
    ~Context() {
      pcre2_jit_stack_free(stack);
      pcre2_match_context_free(match);
    }
  };
  thread_local Context context;
  return context.match;
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  bool jit = false;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& pattern) : pattern_(pattern), code_(std::make_unique<Code>()) {
  std::string ours = for_pcre2(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(ours.data()), ours.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code_->code == nullptr) throw std::invalid_argument(message_of(error));
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code_->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) throw std::invalid_argument("may match an empty text");
  code_->jit = pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE) == 0;  // else interpreted
}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Regex::Matches::Matches(const Regex& regex, std::string_view text)
    : regex_(regex),
      text_(text),
      match_data_(pcre2_match_data_create_from_pattern(regex.code_->code, nullptr)) {
  if (match_data_ == nullptr) throw std::bad_alloc();
}

Regex::Matches::~Matches() { pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_)); }

bool Regex::Matches::next() {
  if (end_ >= text_.size()) return false;
  auto* found = static_cast<pcre2_match_data*>(match_data_);
  auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  // The JIT entry skips checks of arguments that hold here.
  int rc = regex_.code_->jit ? pcre2_jit_match(regex_.code_->code, subject, text_.size(), end_, 0,
                                               found, match_context())
                             : pcre2_match(regex_.code_->code, subject, text_.size(), end_,
                                           PCRE2_NO_UTF_CHECK, found, match_context());
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc < 0)
    throw RunError(format("the pattern %s failed on a text of %zu bytes: %s",
                          regex_.pattern_.c_str(), text_.size(), message_of(rc).c_str()));
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(found);
  begin_ = ends[0], end_ = ends[1];
  return true;
}

}  // namespace conclave::data
