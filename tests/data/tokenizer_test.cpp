#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "../base/temp_folder.h"
#include "base/error.h"
#include "base/random.h"
#include "data/utf8.h"
#include "tokenizer_cases.h"

namespace conclave::data {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

std::string random_unicode(uint64_t seed, uint64_t length) {
  std::string text;
  for (uint64_t i = 0; i < length; ++i) {
    auto c = static_cast<char32_t>(below(i % 3 == 0   ? 0x110000
                                         : i % 3 == 1 ? 0x80
                                                      : 0x3000,
                                         seed, 1, i));
    append_utf8(text, c >= 0xD800 && c < 0xE000 ? U' ' : c);
  }
  return text;
}

TEST(Tokenizer, TextComesBack) {
  Tokenizer tokenizer = tokenizer_of(sample_json());
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::string text = random_unicode(seed, 1 + seed * 2);
    auto ids = tokenizer.encode(text);
    EXPECT_EQ(tokenizer.decode(std::span<const int32_t>(ids)), text);
  }
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_EQ(tokenizer.decode(std::span<const int64_t>()), "");
}

TEST(Tokenizer, RandomBytesBecomeReplacementCharacters) {
  Tokenizer tokenizer = tokenizer_of(sample_json());
  for (uint64_t seed = 0; seed < 50; ++seed) {
    std::string bytes;
    std::vector<int64_t> ids;
    for (uint64_t i = 0; i < 60; ++i) {
      auto id = static_cast<int64_t>(below(256, seed, 2, i));
      ids.push_back(id);
      bytes += sample_training().tokens[id];
      if (seed > 3) break;
    }
    EXPECT_EQ(tokenizer.decode(ids), to_utf8_lossy(bytes));
  }
}

TEST(Tokenizer, SpecialTokensInTheText) {
  json file = sample_json();
  Tokenizer tokenizer = tokenizer_of(file);
  const int32_t end = *tokenizer.token_to_id("<|endoftext|>");
  EXPECT_EQ(end, tokenizer.vocab_size() - 1);
  auto ids = tokenizer.encode("the<|endoftext|><|endoftext|>cat");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 2);
  EXPECT_EQ(tokenizer.decode(std::span<const int32_t>(ids)), "the<|endoftext|><|endoftext|>cat");
  auto plain = tokenizer.encode("the<|endoftext|>", false);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), end), 0);
  EXPECT_EQ(tokenizer.decode(std::span<const int32_t>(plain)), "the<|endoftext|>");
}

TEST(Tokenizer, NormalizedTokensAreFoundInNormalizedText) {
  json file = sample_json();
  file["normalizer"] = {{"type", "NFC"}};
  json token = file["added_tokens"][0];
  const int32_t id = token["id"].get<int32_t>() + 1;
  token.update({{"id", id}, {"content", "cafe\u0301"}, {"normalized", true}, {"special", false}});
  file["added_tokens"].push_back(token);
  Tokenizer tokenizer = tokenizer_of(file);
  EXPECT_THAT(tokenizer.encode("caf\u00E9"), ElementsAre(id));
  EXPECT_THAT(tokenizer.encode("cafe\u0301"), ElementsAre(id));
  EXPECT_EQ(tokenizer.encode("e\u0301"), tokenizer.encode("\u00E9"));
}

TEST(Tokenizer, MergesAsTextAndAsPairsAreTheSame) {
  json file = sample_json();
  Tokenizer pairs = tokenizer_of(file);
  for (json& merge : file["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  EXPECT_EQ(tokenizer_of(file).encode(kSample), pairs.encode(kSample));
}

TEST(Tokenizer, SeveralThreadsAtOnce) {
  Tokenizer tokenizer = tokenizer_of(sample_json());
  const std::string text = random_unicode(3, 3000);
  const auto expected = tokenizer.encode(text);
  std::vector<std::vector<int32_t>> own(4), shared(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      WordCache cache;
      tokenizer.encode(text, true, cache, own[i]);
      shared[i] = tokenizer.encode(text);
    });
  for (auto& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(own[i], expected);
    EXPECT_EQ(shared[i], expected);
  }
}

TEST(Tokenizer, RefusesTextAndIdsItCannotTake) {
  Tokenizer tokenizer = tokenizer_of(sample_json());
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(RunError, tokenizer.encode("ab\xFF")),
              HasSubstr("0xFF at offset 2"));
  for (int64_t id : {int64_t{-1}, int64_t{280}, int64_t{1} << 40})
    EXPECT_THAT(CONCLAVE_MESSAGE_OF(RunError, tokenizer.decode(std::vector<int64_t>{id})),
                HasSubstr("no token has the id " + std::to_string(id)));
}

}  // namespace
}  // namespace conclave::data
