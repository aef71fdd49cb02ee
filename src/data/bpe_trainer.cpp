#include "data/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/progress.h"
#include "base/text.h"
#include "data/byte_chars.h"
#include "data/pre_tokenizer.h"

namespace conclave::data {
namespace {

using Pair = std::pair<int32_t, int32_t>;

uint64_t key_of(Pair pair) {
  return static_cast<uint64_t>(pair.first) << 32 | static_cast<uint32_t>(pair.second);
}

struct Word {
  std::vector<int32_t> symbols;
  int64_t count;
};

// How often a pair of neighbours stands in the text, and in which words it may.
struct PairInfo {
  int64_t count = 0;
  std::vector<uint32_t> words;  // a word may be there twice, or no more have the pair
};

struct Candidate {
  int64_t count;
  Pair pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

// The pairs of all words, kept up to date while they are merged.
class PairCounts {
 public:
  explicit PairCounts(std::vector<Word> words) : words_(std::move(words)) {
    for (uint32_t w = 0; w < words_.size(); ++w)
      for (size_t i = 0; i + 1 < words_[w].symbols.size(); ++i)
        change({words_[w].symbols[i], words_[w].symbols[i + 1]}, words_[w].count, w);
    offer_changed();
  }

  // The most frequent pair, or a count of 0. A candidate whose count has changed since is passed
  // over: each change of a count offered the pair anew.
  Candidate best() {
    while (!queue_.empty()) {
      Candidate top = queue_.top();
      if (top.count == pairs_[key_of(top.pair)].count) return top;
      queue_.pop();
    }
    return {0, {0, 0}};
  }

  void merge(Pair pair, int32_t result) {
    std::vector<uint32_t> in = std::move(pairs_[key_of(pair)].words);
    std::sort(in.begin(), in.end());
    in.erase(std::unique(in.begin(), in.end()), in.end());
    for (uint32_t w : in) merge_in_word(w, pair, result);
    pairs_.erase(key_of(pair));
    offer_changed();
  }

 private:
  void change(Pair pair, int64_t by, uint32_t word) {
    PairInfo& info = pairs_[key_of(pair)];
    info.count += by;
    if (by > 0 && (info.words.empty() || info.words.back() != word)) info.words.push_back(word);
    changed_.push_back(pair);
  }

  void offer_changed() {
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (Pair pair : changed_)
      if (auto it = pairs_.find(key_of(pair)); it != pairs_.end() && it->second.count > 0)
        queue_.push({it->second.count, pair});
    changed_.clear();
  }

  // The word's pairs are taken out, the pair is merged from the left, and what is then there is
  // counted.
  void merge_in_word(uint32_t w, Pair pair, int32_t result) {
    std::vector<int32_t>& symbols = words_[w].symbols;
    const int64_t count = words_[w].count;
    size_t kept = 0;
    for (size_t i = 0; i < symbols.size(); ++i, ++kept) {
      if (i + 1 == symbols.size() || Pair{symbols[i], symbols[i + 1]} != pair) {
        symbols[kept] = symbols[i];
        continue;
      }
      // Left of here the word is already merged: that neighbour may be the result itself.
      if (kept > 0) {
        change({symbols[kept - 1], pair.first}, -count, w);
        change({symbols[kept - 1], result}, count, w);
      }
      if (i + 2 < symbols.size()) {
        change({pair.second, symbols[i + 2]}, -count, w);
        change({result, symbols[i + 2]}, count, w);
      }
      symbols[kept] = result;
      ++i;
    }
    symbols.resize(kept);
  }

  std::vector<Word> words_;
  std::unordered_map<uint64_t, PairInfo> pairs_;
  std::priority_queue<Candidate> queue_;
  std::vector<Pair> changed_;
};

}  // namespace

struct BpeTrainer::State {
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  TokenizerTraining config;
  std::unique_ptr<PreTokenizerStep> split =
      split_step(kQwen2Pattern, SplitBehavior::isolated, false);
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> counts;
  Words words;
};

BpeTrainer::BpeTrainer(TokenizerTraining config) : state_(std::make_unique<State>()) {
  const auto& special = config.special_tokens;
  if (special.empty())
    throw ConfigError("`special_tokens`: expected at least one, which ends a document");
  std::set<std::string> seen;
  for (const std::string& token : special)
    if (token.empty() || !seen.insert(token).second)
      throw ConfigError("`special_tokens`: expected different tokens that are not empty, got \"" +
                        token + "\"" + (token.empty() ? "" : " twice"));
  int64_t least = 256 + static_cast<int64_t>(special.size());
  if (config.vocab_size < least)
    throw ConfigError(format(
        "`vocab_size`: expected at least %lld (256 bytes and %zu special "
        "tokens), got %lld",
        static_cast<long long>(least), special.size(), static_cast<long long>(config.vocab_size)));
  state_->config = std::move(config);
}
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view document) {
  state_->words.clear();
  if (!document.empty()) state_->split->split(document, state_->words);
  for (std::string_view word : state_->words) {
    auto found = state_->counts.find(word);
    if (found == state_->counts.end())
      state_->counts.emplace(word, 1);
    else
      ++found->second;
  }
}

TrainedTokenizer BpeTrainer::train() {
  TrainedTokenizer trained;
  std::array<int32_t, 256> id_of_byte;
  for (uint8_t byte : bytes_in_char_order()) {
    id_of_byte[byte] = static_cast<int32_t>(trained.tokens.size());
    trained.tokens.emplace_back(1, static_cast<char>(byte));
  }
  std::vector<Word> words;  // their order has no influence: counts are sums
  for (const auto& [text, count] : state_->counts) {
    Word& word = words.emplace_back(Word{{}, count});
    for (char byte : text) word.symbols.push_back(id_of_byte[static_cast<uint8_t>(byte)]);
  }
  trained.special_tokens = state_->config.special_tokens;
  const int64_t special = static_cast<int64_t>(trained.special_tokens.size());
  const int64_t plain = state_->config.vocab_size - special;
  Progress progress("training the tokenizer", static_cast<uint64_t>(plain - 256));
  PairCounts pairs(std::move(words));
  while (static_cast<int64_t>(trained.tokens.size()) < plain) {
    Candidate best = pairs.best();
    if (best.count < 2)
      throw ConfigError(format("`vocab_size`: the text has pairs for at most %lld tokens, got %lld",
                               static_cast<long long>(trained.tokens.size()) + special,
                               static_cast<long long>(state_->config.vocab_size)));
    auto result = static_cast<int32_t>(trained.tokens.size());
    trained.tokens.push_back(trained.tokens[best.pair.first] + trained.tokens[best.pair.second]);
    trained.merges.push_back(best.pair);
    pairs.merge(best.pair, result);
    progress.add(1);
  }
  progress.finish();
  return trained;
}

}  // namespace conclave::data
