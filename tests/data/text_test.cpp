#include "data/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "../base/temp_folder.h"
#include "base/error.h"

namespace conclave::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> documents(const TextConfig& config) {
  std::vector<std::string> out;
  Corpus(config).for_each("reading", [&](int64_t index, std::string_view text) {
    EXPECT_EQ(index, static_cast<int64_t>(out.size()));
    out.emplace_back(text);
  });
  return out;
}

TEST(Corpus, FilesInOrderOfTheirPaths) {
  TempFolder folder;
  std::filesystem::create_directories(folder / "in/deep");
  folder.write("in/b.txt", "b");
  folder.write("in/a.txt", "a");
  folder.write("in/empty.txt", "");
  folder.write("in/deep/c.jsonl",
               "{\"text\": \"c1\"}\n{\"text\": \"\"}\n{\"id\": 2, \"text\": \"c2\\n\"}");
  folder.write("in/readme.md", "not text");
  folder.write("z.txt", "z");
  TextConfig config{.paths = {folder / "z.txt", folder / "in", folder / "z.txt"}};
  EXPECT_THAT(documents(config), ElementsAre("a", "b", "c1", "c2\n", "z"));
  EXPECT_EQ(Corpus(config).files().size(), 5u);
}

TEST(Corpus, OneFileOfSeveralDocuments) {
  TempFolder folder;
  folder.write("a.txt", "one\n---\ntwo\n---\n\n---\nthree");
  EXPECT_THAT(documents({.paths = {folder.path()}, .separator = "\n---\n"}),
              ElementsAre("one", "two", "three"));
}

TEST(Corpus, ErrorsNameWhatIsWrong) {
  TempFolder folder;
  auto of = [](const TextConfig& config) {
    return CONCLAVE_MESSAGE_OF(RunError, documents(config));
  };
  EXPECT_THAT(of({.paths = {folder / "none.txt"}}), HasSubstr("none.txt: no such file or folder"));
  EXPECT_THAT(of({.paths = {folder.path()}}), HasSubstr("nothing found"));
  EXPECT_THAT(of({}), HasSubstr("no paths are given"));
  EXPECT_THAT(of({.paths = {folder.write("x.md", "x")}}), HasSubstr("x.md: expected a name"));
  EXPECT_THAT(of({.paths = {folder.write("e.txt", "")}}), HasSubstr("there is no text"));
  EXPECT_THAT(of({.paths = {folder.write("u.txt", "abc\xFF")}}),
              HasSubstr("u.txt: not UTF-8: byte 0xFF at offset 3"));
  EXPECT_THAT(of({.paths = {folder.write("n.jsonl", "{\"text\": \"a\"}\n{\"texts\": 1}\n")}}),
              HasSubstr("n.jsonl:2: `text` is missing"));
  EXPECT_THAT(of({.paths = {folder.write("j.jsonl", "{\"text\": \"a\"}\nx\n")}}),
              HasSubstr("j.jsonl:2:"));
  EXPECT_THAT(
      CONCLAVE_MESSAGE_OF(ConfigError, Corpus({.paths = {folder / "e.txt"}, .separator = ""})),
      HasSubstr("`separator`"));
}

TEST(Corpus, HoldsOutByHashOrEveryNth) {
  TempFolder folder;
  std::string file = folder.write("a.txt", "a");
  auto held = [&](TextConfig config) {
    config.paths = {file};
    Corpus corpus(config);
    int64_t count = 0;
    for (int64_t i = 0; i < 10000; ++i) count += corpus.held_out(i);
    return count;
  };
  EXPECT_NEAR(held({.validation_fraction = 0.1}), 1000, 150);
  EXPECT_EQ(held({.validation_fraction = 0}), 0);
  EXPECT_EQ(held({.validation_every = 50}), 200);
  Corpus every({.paths = {file}, .validation_every = 3});
  EXPECT_FALSE(every.held_out(0));
  EXPECT_TRUE(every.held_out(2));
}

TEST(Corpus, FingerprintFollowsContentAndRule) {
  TempFolder folder;
  std::string file = folder.write("a.txt", "one");
  const uint64_t before = Corpus({.paths = {file}}).fingerprint();
  EXPECT_EQ(Corpus({.paths = {folder.path()}}).fingerprint(), before);
  EXPECT_NE(Corpus({.paths = {file}, .separator = "x"}).fingerprint(), before);
  EXPECT_NE(Corpus({.paths = {file}, .validation_fraction = 0.06}).fingerprint(), before);
  EXPECT_NE(Corpus({.paths = {file}, .seed = 1}).fingerprint(), before);
  folder.write("a.txt", "two");
  EXPECT_NE(Corpus({.paths = {file}}).fingerprint(), before);
}

}  // namespace
}  // namespace conclave::data
