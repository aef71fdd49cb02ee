#include "data/jsonl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../base/temp_folder.h"
#include "base/error.h"
#include "tokenizer_cases.h"

namespace conclave::data {
namespace {

using testing::HasSubstr;

TEST(Jsonl, LineByLineThereAndBack) {
  TempFolder folder;
  Tokenizer tokenizer = tokenizer_of(sample_json());
  std::string in = folder.write(
      "in.jsonl",
      "{\"text\": \"the \\u00e9 \\\"cat\\\"\"}\r\n{\"ids\": []}\n{\"text\": \"\", \"name\": 1}");
  EXPECT_EQ(tokenize_jsonl(tokenizer, in, folder / "ids.jsonl"), 3);
  std::string out = TempFolder::read(folder / "ids.jsonl");
  EXPECT_THAT(out, HasSubstr("\n{\"text\": \"\"}\n{\"ids\": []}\n"));
  folder.write("first.jsonl", out.substr(0, out.find('\n')));
  tokenize_jsonl(tokenizer, folder / "first.jsonl", folder / "back.jsonl");
  EXPECT_EQ(TempFolder::read(folder / "back.jsonl"), "{\"text\": \"the é \\\"cat\\\"\"}\n");
  EXPECT_EQ(tokenize_jsonl(tokenizer, folder.write("empty.jsonl", ""), folder / "none.jsonl"), 0);
}

TEST(Jsonl, ABadLineIsNamedAndNothingWritten) {
  TempFolder folder;
  Tokenizer tokenizer = tokenizer_of(sample_json());
  folder.write("out.jsonl", "kept");
  for (const char* bad :
       {"{\"txt\": \"\"}", "[1]", "no json", "", "{\"text\": 5}", "{\"ids\": [1.5]}",
        "{\"ids\": [280]}", "{\"ids\": [-1]}", "{\"ids\": \"1\"}", "{\"text\": \"\xFF\"}",
        "{\"text\": \"a\", \"ids\": [1]}", "{\"text\": \"\\ud800\"}"}) {
    std::string in =
        folder.write("in.jsonl", "{\"text\": \"a\"}\n" + std::string(bad) + "\n{\"ids\": [1]}\n");
    EXPECT_THAT(CONCLAVE_MESSAGE_OF(RunError, tokenize_jsonl(tokenizer, in, folder / "out.jsonl")),
                testing::StartsWith(in + ":2:"))
        << bad;
    EXPECT_EQ(TempFolder::read(folder / "out.jsonl"), "kept");
  }
}

}  // namespace
}  // namespace conclave::data
