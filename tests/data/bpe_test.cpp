#include "data/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "base/error.h"
#include "base/random.h"

namespace conclave::data {
namespace {

using testing::ElementsAre;

// The definition: again and again the leftmost of the pairs with the lowest rank.
std::vector<int32_t> merged_slowly(std::vector<int32_t> ids, const std::vector<Merge>& merges) {
  for (;;) {
    size_t best_rank = merges.size(), best_at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          best_at = i;
        }
    if (best_rank == merges.size()) return ids;
    ids[best_at] = merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<int64_t>(best_at) + 1);
  }
}

// Tokens of up to eight of the letters a, b, c, joined at random.
struct RandomVocabulary {
  std::vector<std::string> tokens = {"a", "b", "c"};
  std::vector<Merge> merges;
  explicit RandomVocabulary(uint64_t seed) {
    std::map<std::string, int32_t> ids = {{"a", 0}, {"b", 1}, {"c", 2}};
    for (uint64_t i = 0; i < 60; ++i) {
      auto left = static_cast<int32_t>(below(tokens.size(), seed, 0, i));
      auto right = static_cast<int32_t>(below(tokens.size(), seed, 1, i));
      std::string both = tokens[left] + tokens[right];
      if (both.size() > 8) continue;
      auto [it, fresh] = ids.emplace(both, static_cast<int32_t>(tokens.size()));
      if (fresh) tokens.push_back(both);
      bool known = false;
      for (const Merge& merge : merges) known |= merge.left == left && merge.right == right;
      if (!known) merges.push_back({left, right, it->second});
    }
  }
};

TEST(Bpe, MergesAsDefinedInShortAndLongWords) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    RandomVocabulary vocabulary(seed);
    Bpe bpe(vocabulary.tokens, vocabulary.merges, false);
    WordCache cache(16);  // small, so that it fills up and starts anew
    for (uint64_t n = 1; n < 140; ++n) {
      std::string word;
      std::vector<int32_t> bytes, ids;
      for (uint64_t i = 0; i < n; ++i) {
        bytes.push_back(static_cast<int32_t>(below(n % 3 + 1, seed, n + 2, i)));
        word += static_cast<char>('a' + bytes.back());
      }
      for (int again = 0; again < 2; ++again) {
        ids.clear();
        bpe.encode(word, cache, ids);
        ASSERT_EQ(ids, merged_slowly(bytes, vocabulary.merges)) << word;
      }
    }
  }
}

TEST(Bpe, LeavesAWordWholeThatIsAToken) {
  std::vector<std::string> tokens = {"a", "b", "c", "bc", "abc"};
  std::vector<Merge> merges = {{1, 2, 3}};
  WordCache cache;
  std::vector<int32_t> merged, whole;
  Bpe(tokens, merges, false).encode("abc", cache, merged);
  WordCache other;
  Bpe(tokens, merges, true).encode("abc", other, whole);
  EXPECT_THAT(merged, ElementsAre(0, 3));
  EXPECT_THAT(whole, ElementsAre(4));
}

TEST(Bpe, NamesAByteThatIsNoToken) {
  Bpe bpe({"a"}, {}, false);
  WordCache cache;
  std::vector<int32_t> ids;
  try {
    bpe.encode("a\xC3\xA9", cache, ids);
    FAIL();
  } catch (const RunError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("0xC3"));
  }
}

TEST(WordCache, FindsWhatWasAddedUntilItIsFull) {
  WordCache cache(4);
  std::vector<int32_t> ids;
  EXPECT_FALSE(cache.find("x", ids));
  for (int32_t i = 0; i < 4; ++i)
    cache.add("word" + std::to_string(i), std::vector<int32_t>{i, i + 1});
  for (int32_t i = 0; i < 4; ++i) {
    ids = {7};
    EXPECT_TRUE(cache.find("word" + std::to_string(i), ids));
    EXPECT_THAT(ids, ElementsAre(7, i, i + 1));
  }
  cache.add("fifth", std::vector<int32_t>{9});
  EXPECT_FALSE(cache.find("word0", ids));
  EXPECT_TRUE(cache.find("fifth", ids));
}

}  // namespace
}  // namespace conclave::data
