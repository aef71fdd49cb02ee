#include "data/bpe.h"

#include <bit>
#include <cstring>
#include <limits>
#include <queue>

#include "base/error.h"
#include "base/text.h"

namespace conclave::data {
namespace {

constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
constexpr uint64_t kNoKey = ~uint64_t{0};
constexpr uint64_t kOdd = 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio
constexpr size_t kLongestCached = 256;         // bytes
constexpr size_t kShort = 48;  // symbols up to which searching all pairs is the quicker way

uint64_t mix(uint64_t x) {
  x *= kOdd;
  return x ^ x >> 32;
}

uint64_t hash_of(std::string_view word) {
  uint64_t hash = word.size();
  for (; word.size() >= 8; word.remove_prefix(8)) {
    uint64_t eight;
    std::memcpy(&eight, word.data(), 8);
    hash = mix(hash ^ eight);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, word.data(), word.size());
  return mix(hash ^ rest) ^ hash >> 7;
}

}  // namespace

WordCache::WordCache(size_t max_words)
    : max_words_(max_words), table_(std::bit_ceil(2 * max_words)) {}

bool WordCache::find(std::string_view word, std::vector<int32_t>& ids) const {
  uint64_t hash = hash_of(word);
  for (size_t i = hash;; ++i) {
    const Entry& entry = table_[i & (table_.size() - 1)];
    if (entry.count == 0) return false;
    if (entry.hash != hash || entry.length != word.size()) continue;
    if (std::memcmp(texts_.data() + entry.text, word.data(), word.size()) != 0) continue;
    ids.insert(ids.end(), ids_.begin() + entry.ids, ids_.begin() + entry.ids + entry.count);
    return true;
  }
}

void WordCache::add(std::string_view word, std::span<const int32_t> ids) {
  if (words_ == max_words_) {
    std::fill(table_.begin(), table_.end(), Entry{});
    texts_.clear();
    ids_.clear();
    words_ = 0;
  }
  uint64_t hash = hash_of(word);
  size_t i = hash;
  while (table_[i & (table_.size() - 1)].count != 0) ++i;
  table_[i & (table_.size() - 1)] = {
      hash, static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(word.size()),
      static_cast<uint32_t>(ids_.size()), static_cast<uint32_t>(ids.size())};
  texts_ += word;
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  ++words_;
}

Bpe::Bpe(std::vector<std::string> tokens, const std::vector<Merge>& merges, bool ignore_merges)
    : tokens_(std::move(tokens)), ignore_merges_(ignore_merges) {
  byte_ids_.fill(-1);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_[id].size() == 1)
      byte_ids_[static_cast<uint8_t>(tokens_[id][0])] = static_cast<int32_t>(id);
    if (ignore_merges_ && !tokens_[id].empty()) whole_.emplace(tokens_[id], id);
  }
  size_t places = std::bit_ceil(2 * merges.size() + 2);
  keys_.assign(places, kNoKey);
  ranked_.resize(places);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    uint64_t key = static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right);
    size_t i = mix(key) & (places - 1);
    while (keys_[i] != kNoKey && keys_[i] != key) i = (i + 1) & (places - 1);
    keys_[i] = key;  // of a pair that stands there twice the last counts
    ranked_[i] = {static_cast<int32_t>(rank), merge.result};
  }
}

Bpe::Ranked Bpe::merge_of(int32_t left, int32_t right) const {
  uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  for (size_t i = mix(key);; ++i) {
    i &= keys_.size() - 1;
    if (keys_[i] == key) return ranked_[i];
    if (keys_[i] == kNoKey) return {kNone, 0};
  }
}

void Bpe::merge_short(std::vector<int32_t>& symbols) const {
  Ranked pairs[kShort];  // of symbol i and the next
  size_t n = symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = merge_of(symbols[i], symbols[i + 1]);
  for (; n > 1; --n) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (pairs[i].rank < pairs[best].rank) best = i;
    if (pairs[best].rank == kNone) break;
    symbols[best] = pairs[best].result;
    for (size_t i = best + 1; i + 1 < n; ++i) {
      symbols[i] = symbols[i + 1];
      pairs[i] = pairs[i + 1];
    }
    if (best + 2 < n) pairs[best] = merge_of(symbols[best], symbols[best + 1]);
    if (best > 0) pairs[best - 1] = merge_of(symbols[best - 1], symbols[best]);
  }
  symbols.resize(n);
}

void Bpe::merge_long(std::vector<int32_t>& symbols) const {
  struct Candidate {
    int32_t rank;
    uint32_t at;
    int32_t left, right, result;  // what stood there when it was found
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const uint32_t n = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> before(n), after(n);  // the neighbours that are left; n: none
  std::priority_queue<Candidate> queue;
  auto offer = [&](uint32_t at) {
    if (at >= n || after[at] >= n) return;
    int32_t left = symbols[at], right = symbols[after[at]];
    Ranked merge = merge_of(left, right);
    if (merge.rank != kNone) queue.push({merge.rank, at, left, right, merge.result});
  };
  for (uint32_t i = 0; i < n; ++i) before[i] = i == 0 ? n : i - 1, after[i] = i + 1;
  for (uint32_t i = 0; i < n; ++i) offer(i);
  while (!queue.empty()) {
    Candidate best = queue.top();
    queue.pop();
    uint32_t gone = symbols[best.at] == best.left ? after[best.at] : n;
    if (gone >= n || symbols[gone] != best.right) continue;  // one of the two was merged since
    symbols[best.at] = best.result;
    symbols[gone] = -1;
    after[best.at] = after[gone];
    if (after[gone] < n) before[after[gone]] = best.at;
    offer(before[best.at]);
    offer(best.at);
  }
  std::erase(symbols, -1);
}

void Bpe::encode(std::string_view word, WordCache& cache, std::vector<int32_t>& ids) const {
  if (cache.find(word, ids)) return;
  if (ignore_merges_)
    if (auto it = whole_.find(word); it != whole_.end()) return ids.push_back(it->second);
  std::vector<int32_t> symbols(word.size());
  for (size_t i = 0; i < word.size(); ++i) {
    auto byte = static_cast<uint8_t>(word[i]);
    symbols[i] = byte_ids_[byte];
    if (symbols[i] < 0)
      throw RunError(
          format("the text has the byte 0x%02X, which is no token of the vocabulary", byte));
  }
  symbols.size() <= kShort ? merge_short(symbols) : merge_long(symbols);
  if (word.size() <= kLongestCached) cache.add(word, symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace conclave::data
