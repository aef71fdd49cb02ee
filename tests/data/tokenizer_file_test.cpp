#include "data/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../base/temp_folder.h"
#include "base/error.h"
#include "base/random.h"
#include "tokenizer_cases.h"

namespace conclave::data {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

std::string message(const json& file) { return CONCLAVE_MESSAGE_OF(RunError, tokenizer_of(file)); }

struct Case {
  const char* pointer;  // what is replaced
  json value;
  const char* expected;  // in the message
};

TEST(TokenizerFile, RefusesWithFileAndKey) {
  const json merge = {"a", "nothing"};
  const Case cases[] = {
      {"/version", "2.0", "`version`: expected \"1.0\""},
      {"/truncation", {{"max_length", 5}}, "`truncation`: expected null"},
      {"/unknown", 1, "`unknown`: this key is not taken"},
      {"/normalizer", {{"type", "NFKC"}}, "`normalizer`: expected null or one of type NFC"},
      {"/post_processor", {{"type", "TemplateProcessing"}}, "`post_processor`"},
      {"/decoder", nullptr, "`decoder`: expected one of type ByteLevel, got null"},
      {"/pre_tokenizer", nullptr, "`pre_tokenizer`"},
      {"/model", json::array(), "`model`: expected an object"},
      {"/model/type", "Unigram", "`model`: expected one of type BPE"},
      {"/model/dropout", 0.1, "`model.dropout`: expected null or 0, got 0.1"},
      {"/model/end_of_word_suffix", "</w>", "`model.end_of_word_suffix`"},
      {"/model/byte_fallback", true, "`model.byte_fallback`: expected false"},
      {"/model/ignore_merges", "yes", "`ignore_merges`: expected true or false"},
      {"/model/other", 1, "`model.other`: this key is not taken"},
      {"/model/vocab", json::object(), "`model.vocab`"},
      {"/model/vocab/x", -1, "`model.vocab.x`: expected an id from 0 to 66094, got -1"},
      {"/model/vocab/x", 4000000000u, "`model.vocab.x`: expected an id from 0"},
      {"/model/vocab/x", 18446744073709551615u, "`model.vocab.x`: expected an id from 0"},
      {"/model/vocab/x", 1.5, "`model.vocab.x`: expected a whole number"},
      {"/model/vocab/new", 5, "`model.vocab."},
      {"/model/merges", nullptr, "`model.merges`: expected a list"},
      {"/model/merges/0", "a", "`model.merges[0]`: expected two tokens with a space"},
      {"/model/merges/0", "a b c", "`model.merges[0]`: expected two tokens with a space"},
      {"/model/merges/1", merge, "`model.merges[1]`: expected two tokens of the vocabulary"},
      {"/model/merges/1", 7, "`model.merges[1]`: expected \"a b\" or"},
      {"/added_tokens", 7, "`added_tokens`: expected a list"},
      {"/added_tokens/0/id", 999, "`added_tokens[0].id`: expected 279, got 999"},
      {"/added_tokens/0/content", "", "`added_tokens[0].content`"},
      {"/added_tokens/0/lstrip", true, "`added_tokens[0].lstrip`: expected false"},
      {"/added_tokens/0/single_word", true, "`added_tokens[0].single_word`: expected false"},
      {"/added_tokens/0/special", 1, "`special`: expected true or false"},
  };
  for (const Case& c : cases) {
    json file = sample_json();
    file[json::json_pointer(c.pointer)] = c.value;
    EXPECT_THAT(message(file), StartsWith("t.json: ")) << c.pointer;
    EXPECT_THAT(message(file), HasSubstr(c.expected)) << c.pointer;
  }
}

TEST(TokenizerFile, RefusesMissingParts) {
  for (const char* key : {"model", "pre_tokenizer", "decoder"}) {
    json file = sample_json();
    file.erase(key);
    EXPECT_THAT(message(file), HasSubstr(key));
  }
  for (const char* key : {"vocab", "merges"}) {
    json file = sample_json();
    file["model"].erase(key);
    EXPECT_THAT(message(file), HasSubstr(key));
  }
}

TEST(TokenizerFile, EveryTruncationIsOneMessage) {
  const std::string whole = sample_training(262).to_json();
  for (size_t size = 0; size + 3 < whole.size(); size += 13) {
    std::string text = CONCLAVE_MESSAGE_OF(
        RunError, Tokenizer::parse(std::string_view(whole).substr(0, size), "t.json"));
    EXPECT_THAT(text, StartsWith("t.json:"));
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

TEST(TokenizerFile, ADamagedByteIsAMessageOrAnotherTokenizer) {
  const std::string whole = sample_training(262).to_json();
  for (uint64_t i = 0; i < 400; ++i) {
    std::string damaged = whole;
    for (uint64_t k = 0; k <= i % 3; ++k)
      damaged[below(whole.size(), 1, k, i)] = static_cast<char>(below(256, 2, k, i));
    try {
      Tokenizer tokenizer = Tokenizer::parse(damaged, "t.json");
      tokenizer.encode(kSample);
    } catch (const RunError& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
}

TEST(TokenizerFile, AnUnknownTokenIsFineWhereNothingIsUnknown) {
  json file = sample_json();
  file["model"]["unk_token"] = "<|endoftext|>";
  EXPECT_EQ(tokenizer_of(file).vocab_size(), 280);
  file["model"]["vocab"].erase("ÿ");
  EXPECT_THAT(message(file), HasSubstr("`model.unk_token`: expected null"));
}

TEST(TokenizerFile, AddedTokensMayBeInTheVocabulary) {
  json file = sample_json();
  json token = file["added_tokens"][0];
  token["content"] = "the";
  token["id"] = file["model"]["vocab"]["the"];
  file["added_tokens"].insert(file["added_tokens"].begin(), token);
  EXPECT_EQ(tokenizer_of(file).encode("the<|endoftext|>").size(), 2u);
  token["content"] = "<|endoftext|>";
  file["added_tokens"].push_back(token);
  EXPECT_THAT(message(file), HasSubstr("`added_tokens[2].content`: expected a token once"));
}

}  // namespace
}  // namespace conclave::data
