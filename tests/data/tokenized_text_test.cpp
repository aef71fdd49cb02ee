#include "data/tokenized_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../base/temp_folder.h"
#include "base/error.h"
#include "tokenizer_cases.h"

namespace conclave::data {
namespace {

class TokenizedCorpusTest : public testing::Test {
 protected:
  TokenizedCorpusTest() {
    for (int i = 0; i < 30; ++i)
      folder_.write(std::to_string(i + 10) + ".txt",
                    "the cat no. " + std::to_string(i) + "<|endoftext|>");
    config_.paths = {folder_.path()};
    config_.validation_every = 5;
  }
  TokenizedCorpus load() {
    return tokenize_corpus(config_, tokenizer_, "<|endoftext|>", cache_.path());
  }
  // Likewise; what it warns of goes to warnings_.
  TokenizedCorpus load_with_warning(const std::string& cache_folder) {
    testing::internal::CaptureStderr();
    TokenizedCorpus corpus = tokenize_corpus(config_, tokenizer_, "<|endoftext|>", cache_folder);
    warnings_ = testing::internal::GetCapturedStderr();
    return corpus;
  }
  std::string cache_file() const {
    for (const auto& entry : std::filesystem::directory_iterator(cache_.path()))
      return entry.path().string();
    return "";
  }

  TempFolder folder_, cache_;
  TextConfig config_;
  std::string warnings_;
  Tokenizer tokenizer_ = tokenizer_of(sample_json());
};

TEST_F(TokenizedCorpusTest, EveryDocumentOnceAndClosed) {
  TokenizedCorpus corpus = load();
  EXPECT_EQ(corpus.train->docs(), 24);
  EXPECT_EQ(corpus.validation->docs(), 6);
  EXPECT_EQ(corpus.eos, 279);
  uint64_t bytes = 0;
  for (const auto& text : {corpus.train, corpus.validation}) {
    bytes += text->bytes;
    EXPECT_EQ(text->doc_offsets.back(), text->tokens());
    for (int64_t d = 0; d < text->docs(); ++d) {
      auto ids = text->doc(d);
      EXPECT_EQ(ids.back(), corpus.eos);
      EXPECT_EQ(std::count(ids.begin(), ids.end(), corpus.eos), 1);  // the text cannot forge one
    }
  }
  EXPECT_EQ(bytes, Corpus(config_).bytes());
  EXPECT_EQ(
      tokenizer_.decode(corpus.validation->doc(0).first(corpus.validation->doc(0).size() - 1)),
      "the cat no. 4<|endoftext|>");
}

TEST_F(TokenizedCorpusTest, TheSecondStartReadsTheCache) {
  TokenizedCorpus made = load(), read = load();
  EXPECT_FALSE(made.from_cache);
  EXPECT_TRUE(read.from_cache);
  EXPECT_EQ(read.train->ids, made.train->ids);
  EXPECT_EQ(read.validation->doc_offsets, made.validation->doc_offsets);
  EXPECT_EQ(read.validation->bytes, made.validation->bytes);
  EXPECT_EQ(read.eos, made.eos);
  config_.validation_every = 6;
  EXPECT_FALSE(load().from_cache);
  folder_.write("10.txt", "another");
  EXPECT_FALSE(load().from_cache);
}

TEST_F(TokenizedCorpusTest, ADamagedCacheIsMadeAgain) {
  TokenizedCorpus made = load();
  const std::string whole = TempFolder::read(cache_file());
  for (size_t size : {size_t{0}, size_t{20}, whole.size() - 1}) {
    cache_.write(std::filesystem::path(cache_file()).filename(), whole.substr(0, size));
    TokenizedCorpus again = load_with_warning(cache_.path());
    EXPECT_FALSE(again.from_cache);
    EXPECT_THAT(warnings_, testing::HasSubstr(cache_file() + ": damaged"));
    EXPECT_EQ(again.train->ids, made.train->ids);
    EXPECT_EQ(TempFolder::read(cache_file()), whole);
  }
  for (size_t at = 0; at < whole.size(); at += 101) {
    std::string flipped = whole;
    flipped[at] ^= 4;
    cache_.write(std::filesystem::path(cache_file()).filename(), flipped);
    ASSERT_FALSE(load_with_warning(cache_.path()).from_cache) << at;
  }
}

TEST_F(TokenizedCorpusTest, WorksWithoutAPlaceForTheCache) {
  EXPECT_FALSE(tokenize_corpus(config_, tokenizer_, "<|endoftext|>", "").from_cache);
  std::string file = folder_.write("10.txt", "a file, no folder");
  EXPECT_EQ(load_with_warning(file + "/cache").train->docs(), 24);
  EXPECT_THAT(warnings_, testing::HasSubstr("not kept for the next start"));
}

TEST_F(TokenizedCorpusTest, RefusesWhatLeavesNothing) {
  config_.validation_every = 1000;
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(RunError, load()),
              testing::HasSubstr("none is left for validation"));
  EXPECT_THAT(CONCLAVE_MESSAGE_OF(RunError, tokenize_corpus(config_, tokenizer_, "<eos>", "")),
              testing::HasSubstr("no token \"<eos>\""));
}

}  // namespace
}  // namespace conclave::data
