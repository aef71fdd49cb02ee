// Regular expressions of published tokenizers, on PCRE2 with Unicode properties. Patterns are
// written for Oniguruma; what the two read alike is taken, \s and \S get Oniguruma's meaning
// (White_Space), any other escape that they may read differently is refused. Letters added
// after Unicode 14, which is PCRE2 10.42's, are no letters here.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace conclave::data {

class Regex {
 public:
  // Throws std::invalid_argument saying what is wrong: a syntax error, an escape that is refused, a
  // pattern that matches nothing at all.
  explicit Regex(const std::string& pattern);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();
  const std::string& pattern() const { return pattern_; }

  // Walks the matches in one text, front to back. One a thread.
  class Matches {
   public:
    // `text` is well-formed UTF-8 and outlives this.
    Matches(const Regex& regex, std::string_view text);
    ~Matches();
    Matches(const Matches&) = delete;
    bool next();  // false: there is no further match
    size_t begin() const { return begin_; }
    size_t end() const { return end_; }

   private:
    const Regex& regex_;
    std::string_view text_;
    size_t begin_ = 0, end_ = 0;
    void* match_data_;
  };

 private:
  struct Code;
  std::string pattern_;
  std::unique_ptr<Code> code_;
};

}  // namespace conclave::data
