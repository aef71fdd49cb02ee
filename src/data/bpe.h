// The byte-pair-encoding model: a word's bytes become tokens, and the pair of neighbours with the
// lowest rank is merged until no pair has one (of equal ones the leftmost first). Source: arXiv
// 1508.07909; on bytes: GPT-2.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace conclave::data {

struct Merge {
  int32_t left, right, result;
};

// What was found for words already seen. One a thread; forgets all when full.
class WordCache {
 public:
  explicit WordCache(size_t max_words = size_t{1} << 17);
  // True: the word was seen, and its tokens are appended to `ids`.
  bool find(std::string_view word, std::vector<int32_t>& ids) const;
  void add(std::string_view word, std::span<const int32_t> ids);

 private:
  struct Entry {
    uint64_t hash = 0;
    uint32_t text = 0, length = 0, ids = 0, count = 0;  // count 0: empty place
  };
  size_t max_words_, words_ = 0;
  std::vector<Entry> table_;  // open addressing, a power of two ≥ 2 · max_words
  std::string texts_;
  std::vector<int32_t> ids_;
};

class Bpe {
 public:
  // tokens: the bytes of each token, by id; an empty string is an id that stands for no bytes.
  // merges: in order of rank, each result the joined bytes of its parts. ignore_merges: a word that
  // is a token is left whole, even where merges would not lead to it.
  Bpe(std::vector<std::string> tokens, const std::vector<Merge>& merges, bool ignore_merges);
  Bpe(const Bpe&) = delete;

  // Appends the tokens of `word`. Throws RunError naming a byte that is no token. Several threads
  // may call it, each with a cache of its own.
  void encode(std::string_view word, WordCache& cache, std::vector<int32_t>& ids) const;

 private:
  struct Ranked {
    int32_t rank, result;
  };
  Ranked merge_of(int32_t left, int32_t right) const;  // rank kNone: they do not merge
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;

  std::vector<std::string> tokens_;
  bool ignore_merges_;
  std::unordered_map<std::string_view, int32_t> whole_;  // into tokens_, with ignore_merges only
  std::array<int32_t, 256> byte_ids_;                    // -1: no token
  std::vector<uint64_t> keys_;                           // open addressing: left << 32 | right
  std::vector<Ranked> ranked_;                           // beside keys_
};

}  // namespace conclave::data
