// Text to token ids and back, as the `tokenizers` package does it for the same tokenizer.json.
//
// Taken: model BPE on bytes (merges as "a b" or as pairs, ignore_merges both ways); pre_tokenizer
// ByteLevel, Split by Regex, or a Sequence of them; normalizer null or NFC; decoder ByteLevel;
// post_processor null or ByteLevel; added tokens without lstrip, rstrip and single_word. Anything
// else in the file is a RunError naming file and key.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe.h"

namespace conclave::data {

class Tokenizer {
 public:
  // Throws RunError, one line, for a file that cannot be read, is damaged, or asks for what is not
  // taken.
  static Tokenizer load(const std::string& path);
  static Tokenizer parse(std::string_view json,
                         const std::string& file);  // `file` is what messages call it
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // The tokens of `text`; none is added. Added tokens in the text are recognised, special ones only
  // with allow_special (without, the text of a document cannot forge one). Throws RunError for text
  // that is no UTF-8 and for a byte the vocabulary lacks.
  std::vector<int32_t> encode(std::string_view text, bool allow_special = true) const;
  // As above, appending, with a cache of the caller's: for several threads at once. The plain form
  // keeps one of its own and locks it.
  void encode(std::string_view text, bool allow_special, WordCache& cache,
              std::vector<int32_t>& ids) const;

  // The text of `ids`, special tokens kept; bytes that are no UTF-8 become U+FFFD. Throws RunError
  // naming an id that no token has.
  std::string decode(std::span<const int64_t> ids) const;
  std::string decode(std::span<const int32_t> ids) const;

  int64_t vocab_size() const;  // the highest id + 1, added tokens included
  std::optional<int32_t> token_to_id(
      const std::string& token) const;  // "<|endoftext|>"; of the model's, byte characters: "Ġthe"
  uint64_t fingerprint() const;         // hash of the file it came from: the key of caches

 private:
  struct Parts;
  explicit Tokenizer(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave::data
