#include "data/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "../base/temp_folder.h"
#include "base/error.h"
#include "base/random.h"
#include "data/pre_tokenizer.h"
#include "tokenizer_cases.h"

namespace conclave::data {
namespace {

using testing::HasSubstr;

// The definition: counts all pairs of all words anew for each merge.
std::vector<std::pair<int32_t, int32_t>> merges_slowly(const std::string& text, int64_t merges,
                                                       const TrainedTokenizer& trained) {
  std::map<std::string, int32_t> byte_ids;
  for (int32_t i = 0; i < 256; ++i) byte_ids[trained.tokens[i]] = i;
  Words words;
  split_step(kQwen2Pattern, SplitBehavior::isolated, false)->split(text, words);
  std::vector<std::vector<int32_t>> symbols;
  for (std::string_view word : words) {
    symbols.emplace_back();
    for (char c : word) symbols.back().push_back(byte_ids.at(std::string(1, c)));
  }
  std::vector<std::pair<int32_t, int32_t>> made;
  for (int32_t next = 256; static_cast<int64_t>(made.size()) < merges; ++next) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& word : symbols)
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    auto best = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
      return a.second < b.second;  // the first of equal ones: the smallest pair
    });
    made.push_back(best->first);
    for (auto& word : symbols)
      for (size_t i = 0; i + 1 < word.size(); ++i)
        if (std::pair(word[i], word[i + 1]) == made.back()) {
          word[i] = next;
          word.erase(word.begin() + static_cast<int64_t>(i) + 1);
        }
  }
  return made;
}

TEST(BpeTrainer, MergesTheMostFrequentPair) {
  std::string text = kSample;
  for (uint64_t i = 0; i < 3000; ++i) text += "aab bacaaa"[below(10, 1, 2, i)];
  BpeTrainer trainer({.vocab_size = 257 + 80});
  trainer.add(text);
  TrainedTokenizer trained = trainer.train();
  ASSERT_EQ(trained.merges.size(), 80u);
  EXPECT_EQ(trained.merges, merges_slowly(text, 80, trained));
}

TEST(BpeTrainer, VocabularyIsExactAndInOrder) {
  BpeTrainer trainer({.vocab_size = 270, .special_tokens = {"<end>", "<\"pad\">"}});
  trainer.add(kSample);
  TrainedTokenizer trained = trainer.train();
  EXPECT_EQ(trained.tokens.size(), 268u);
  EXPECT_EQ(trained.tokens[0], "!");
  EXPECT_EQ(trained.tokens[255], "\xAD");
  Tokenizer tokenizer = Tokenizer::parse(trained.to_json(), "t.json");
  EXPECT_EQ(tokenizer.vocab_size(), 270);
  EXPECT_EQ(tokenizer.token_to_id("<end>"), 268);
  EXPECT_EQ(tokenizer.token_to_id("<\"pad\">"), 269);
  for (int64_t i = 0; i < 12; ++i) {
    auto [left, right] = trained.merges[i];
    EXPECT_EQ(trained.tokens[256 + i], trained.tokens[left] + trained.tokens[right]);
  }
}

TEST(BpeTrainer, SameTextSameBytes) {
  EXPECT_EQ(sample_training().to_json(), sample_training().to_json());
  TempFolder folder;
  sample_training().save(folder / "a/b");
  EXPECT_EQ(TempFolder::read(folder / "a/b/tokenizer.json"), sample_training().to_json());
  auto config = nlohmann::json::parse(TempFolder::read(folder / "a/b/tokenizer_config.json"));
  EXPECT_EQ(config["eos_token"], "<|endoftext|>");
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
}

TEST(BpeTrainer, NoMergesAtAll) {
  BpeTrainer trainer({.vocab_size = 257});
  trainer.add("");
  Tokenizer tokenizer = Tokenizer::parse(trainer.train().to_json(), "t.json");
  EXPECT_EQ(tokenizer.encode("\xC3\xA9").size(), 2u);
}

TEST(BpeTrainer, RefusesWhatCannotBe) {
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(ConfigError, BpeTrainer({.vocab_size = 256})),
              HasSubstr("`vocab_size`: expected at least 257"));
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(ConfigError, BpeTrainer({.special_tokens = {}})),
              HasSubstr("expected at least one"));
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(ConfigError, BpeTrainer({.special_tokens = {"a", "a"}})),
              HasSubstr("\"a\" twice"));
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(ConfigError, BpeTrainer({.special_tokens = {"a", ""}})),
              HasSubstr("not empty"));
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(ConfigError, sample_training(5000)), HasSubstr("at most"));
}

}  // namespace
}  // namespace conclave::data
