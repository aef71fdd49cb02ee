#include "base/config.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "base/config_demo.h"

namespace conclave {
namespace {

TEST_F(ConfigTest, ReadsEachKindOfMember) {
  Demo c = read(R"(# a comment
seed: -7
shuffle: false
clip: 1
keep: null
note: "3"
tied: true
optimizer:
  lr: 1e-3
  betas: [0, .99]
  schedule: wsd
data: {path: a b/c.txt, seq_len: +12, files: [x, 'y z', 5], splits: []}
)")
               .value;
  EXPECT_EQ(c.seed, -7);
  EXPECT_FALSE(c.shuffle);
  EXPECT_EQ(c.clip, 1.0);
  EXPECT_EQ(c.keep, std::nullopt);
  EXPECT_EQ(c.note, "3");
  EXPECT_EQ(c.tied, true);
  EXPECT_EQ(c.optimizer.lr, 1e-3);
  EXPECT_EQ(c.optimizer.beta1, 0);
  EXPECT_EQ(c.optimizer.beta2, 0.99);
  EXPECT_EQ(c.optimizer.weight_decay, 0.1);
  EXPECT_EQ(c.optimizer.schedule, "wsd");
  EXPECT_EQ(c.data.path, "a b/c.txt");
  EXPECT_EQ(c.data.seq_len, 12);
  EXPECT_EQ(c.data.files, (std::vector<std::string>{"x", "y z", "5"}));
  EXPECT_TRUE(c.data.splits.empty());
}

TEST_F(ConfigTest, AnEmptyFileIsAllDefaults) {
  for (const char* yaml : {"", "# nothing\n", "---\n", "{}"}) {
    Demo c = read(yaml).value;
    EXPECT_EQ(dump_config(c), dump_config(Demo{})) << yaml;
  }
}

TEST_F(ConfigTest, AnUnknownKeyNamesTheNearest) {
  const std::string tail = " (conclave help pretrain lists all keys)";
  EXPECT_EQ(
      error("seed: 1\noptimizer:\n  weight_deacy: 0\n"),
      "demo.yaml:3:3: unknown key `optimizer.weight_deacy`; did you mean `weight_decay`?" + tail);
  EXPECT_EQ(error("seq_len: 3"),
            "demo.yaml:1:1: unknown key `seq_len`; `seq_len` belongs under `data`" + tail);
  EXPECT_EQ(error("data: {seed: 3}"),
            "demo.yaml:1:8: unknown key `data.seed`; `seed` belongs at the top level" + tail);
  EXPECT_EQ(error("\n\n seqlen: 3"),
            "demo.yaml:3:2: unknown key `seqlen`; did you mean `data.seq_len`?" + tail);
  EXPECT_EQ(error("xyzzy: 3"), "demo.yaml:1:1: unknown key `xyzzy`" + tail);
  EXPECT_EQ(error("data.seq_len: 3"),
            "demo.yaml:1:1: unknown key `data.seq_len`; `seq_len` belongs under `data`" + tail);
  EXPECT_EQ(error("", {"optimizer.lrr=1"}),
            "--set optimizer.lrr=1: unknown key `optimizer.lrr`; did you mean `lr`?" + tail);
}

TEST_F(ConfigTest, AWrongTypeSaysWhatWasExpectedAndWhatCame) {
  EXPECT_EQ(error("optimizer:\n  lr: fast"),
            "demo.yaml:2:7: `optimizer.lr`: expected a number, got `fast`");
  EXPECT_EQ(error("optimizer: {lr: \"3\"}"),
            "demo.yaml:1:17: `optimizer.lr`: expected a number, got the text \"3\"");
  EXPECT_EQ(error("seed:"), "demo.yaml:1:1: `seed`: expected a whole number, got nothing");
  EXPECT_EQ(error("seed: [1, 2]"),
            "demo.yaml:1:7: `seed`: expected a whole number, got a list of 2");
  EXPECT_EQ(error("data: {path: {a: b}}"),
            "demo.yaml:1:14: `data.path`: expected text, got a mapping; text with `: ` in it needs "
            "quotes");
  EXPECT_EQ(error("data: {path: }"),
            "demo.yaml:1:8: `data.path`: expected text, got nothing; the empty text is \"\"");
  EXPECT_EQ(error("data: {splits: [1, x]}"),
            "demo.yaml:1:20: `data.splits`: expected a whole number, got `x`");
  EXPECT_EQ(error("data: {files: x}"),
            "demo.yaml:1:15: `data.files`: expected a list, such as [a, b], got `x`");
  EXPECT_EQ(error("optimizer: {betas: 0.9}"),
            "demo.yaml:1:20: `optimizer.betas`: expected a list of two numbers, got `0.9`");
  EXPECT_EQ(error("optimizer: {betas: [0.9]}"),
            "demo.yaml:1:20: `optimizer.betas`: expected a list of two numbers, got a list of 1");
  EXPECT_EQ(error("optimizer: 3"), "demo.yaml:1:1: `optimizer`: expected keys and values under it");
  EXPECT_EQ(error("optimizer:"), "demo.yaml:1:1: `optimizer`: expected keys and values under it");
  EXPECT_EQ(error("- 1\n- 2"), "demo.yaml:1:1: expected keys and values, such as `seed: 1`");
}

TEST_F(ConfigTest, NumbersAreSpeltStrictly) {
  for (const char* text :
       {"1_000", "1e6", "1.0", "0x10", "", "+", "+-3", "--3", "1 2", "true", ".5", "３"})
    EXPECT_NE(error(std::string("seed: ") + text).find("expected a whole number, got"),
              std::string::npos)
        << text;
  EXPECT_EQ(error("seed: 9223372036854775808"),
            "demo.yaml:1:7: `seed`: expected a whole number of at most 64 bits, got "
            "`9223372036854775808`");
  EXPECT_EQ(read("seed: -9223372036854775808").value.seed, INT64_MIN);
  for (const char* text : {"1_0", "inf", "nan", "0x1p3", "1e", "e5", "+-3", "1,5"})
    EXPECT_NE(error(std::string("share: ") + text).find("expected a number, got"),
              std::string::npos)
        << text;
  for (const char* text : {".inf", "-.inf", ".nan", "1e999", "-1e999"})
    EXPECT_NE(error(std::string("share: ") + text).find("expected a finite number, got"),
              std::string::npos)
        << text;
  for (const char* text : {"yes", "True", "1", "on", "\"true\""})
    EXPECT_NE(error(std::string("shuffle: ") + text).find("expected true or false, got"),
              std::string::npos)
        << text;
  EXPECT_EQ(read("share: +1E-2").value.share, 0.01);
  EXPECT_EQ(read("share: 1.").value.share, 1.0);
}

TEST_F(ConfigTest, ChecksAreEnforced) {
  EXPECT_EQ(error("optimizer: {lr: 0}"),
            "demo.yaml:1:17: `optimizer.lr`: expected a number > 0, got `0`");
  EXPECT_EQ(error("optimizer: {betas: [0.9, 1]}"),
            "demo.yaml:1:26: `optimizer.betas`: expected a number >= 0 and < 1, got `1`");
  EXPECT_EQ(error("optimizer: {weight_decay: -1}"),
            "demo.yaml:1:27: `optimizer.weight_decay`: expected a number >= 0, got `-1`");
  EXPECT_EQ(error("optimizer: {schedule: cosin}"),
            "demo.yaml:1:23: `optimizer.schedule`: expected cosine, wsd or constant, got `cosin`; "
            "did you mean "
            "`cosine`?");
  EXPECT_EQ(error("data: {seq_len: 1}"),
            "demo.yaml:1:17: `data.seq_len`: expected a whole number >= 2, got `1`");
  EXPECT_EQ(error("clip: -1"), "demo.yaml:1:7: `clip`: expected a number > 0, got `-1`");
  EXPECT_EQ(error("share: 1.5"),
            "demo.yaml:1:8: `share`: expected a number >= 0 and <= 1, got `1.5`");
  EXPECT_EQ(error("data: {splits: [1, 0]}"),
            "demo.yaml:1:20: `data.splits`: expected a whole number > 0, got `0`");
  EXPECT_EQ(read("share: 1").value.share, 1);
  EXPECT_EQ(read("clip: ~").value.clip, std::nullopt);
}

TEST_F(ConfigTest, BrokenYamlIsAConfigErrorWithAPosition) {
  EXPECT_EQ(error("seed: 1\nseed: 2"),
            "demo.yaml:2:1: the key `seed` stands twice in one mapping, first at " +
                (folder_ / "demo.yaml:1:1"));
  EXPECT_EQ(error("seed: [1\n").rfind("demo.yaml:2:1: not YAML: ", 0), 0u);
  EXPECT_EQ(error("a: b: c").rfind("demo.yaml:1:5: not YAML: ", 0), 0u);
  EXPECT_EQ(error("seed: 1\n---\nseed: 2"),
            "demo.yaml:2:1: expected one YAML document, got a second one (`---`)");
  EXPECT_NE(error("data: &x {seq_len: 2}").find("anchors and aliases"), std::string::npos);
  EXPECT_NE(error("seed: *x").find("demo.yaml:1:7: "), std::string::npos);
  EXPECT_NE(error("seed: !!int 3").find("tags such as"), std::string::npos);
  EXPECT_NE(error("[a]: 3").find("expected a key that is plain text"), std::string::npos);
  EXPECT_NE(error("~: 3").find("expected a key that is plain text"), std::string::npos);
  EXPECT_NE(error("seed: " + std::string(100000, '[') + std::string(100000, ']')).find("not YAML"),
            std::string::npos);
  for (const std::string& message : {error("seed: \"a\nb"), error("seed: \"a\\nb\"")})
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST_F(ConfigTest, AFileThatCannotBeReadIsAConfigError) {
  std::string path = folder_ / "none.yaml";
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(ConfigError, read_config<Demo>(path, {}, "pretrain")),
            path + ": cannot open: No such file or directory; check the path");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(ConfigError, read_config<Demo>(folder_.path(), {}, "pretrain")),
            folder_.path() + ": cannot read: Is a directory; name a file, not a folder");
}

TEST_F(ConfigTest, SetsOverrideTheFileInOrder) {
  Config<Demo> c =
      read("seed: 2\ndata: {seq_len: 8, path: x}",
           {"seed=3", "data.seq_len=9", "data.seq_len=10", "optimizer.betas=[0.5, 0.6]",
            "data.files=[a,b]", "note=a=b", "keep=", "optimizer={lr: 2}"});
  EXPECT_EQ(c.value.seed, 3);
  EXPECT_EQ(c.value.data.seq_len, 10);
  EXPECT_EQ(c.value.data.path, "x");
  EXPECT_EQ(c.value.optimizer.beta2, 0.6);
  EXPECT_EQ(c.value.optimizer.lr, 2);
  EXPECT_EQ(c.value.data.files, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(c.value.note, "a=b");
  EXPECT_EQ(c.value.keep, std::nullopt);
  EXPECT_EQ(c.source.location("data.seq_len"), "--set data.seq_len=10");
  EXPECT_EQ(error("", {"seed"}), "--set seed: expected KEY=VALUE, such as optimizer.lr=0.001");
  EXPECT_EQ(error("", {"=3"}), "--set =3: expected KEY=VALUE with names between the dots");
  EXPECT_EQ(error("", {"data..path=3"}),
            "--set data..path=3: expected KEY=VALUE with names between the dots");
  EXPECT_EQ(error("", {"optimizer.lr=fast"}),
            "--set optimizer.lr=fast: `optimizer.lr`: expected a number, got `fast`");
  EXPECT_EQ(
      error("", {"seed=[1"})
          .rfind("--set seed=[1: expected a key that is plain text; a bracket may be missing", 0),
      0u);
  EXPECT_EQ(error("", {"optimizer=1"}),
            "--set optimizer=1: `optimizer`: expected keys and values under it");
  EXPECT_EQ(error("", {"seed.x=1"})
                .rfind("--set seed.x=1: `seed`: expected a whole number, got a mapping", 0),
            0u);
}

TEST_F(ConfigTest, WithoutAFileTheSetsAreAll) {
  Config<Demo> c = read_config<Demo>("", {"seed=4"}, "forward");
  EXPECT_EQ(c.value.seed, 4);
  EXPECT_STREQ(c.source.error("share", "no").what(), "`share`: no");
}

TEST_F(ConfigTest, TheSourceTellsWhatWasGivenAndWhere) {
  Config<Demo> c = read("seed: 2\n\ndata:\n  seq_len: 8\n", {"share=1"});
  std::string file = folder_ / "demo.yaml";
  EXPECT_TRUE(c.source.is_set("seed"));
  EXPECT_TRUE(c.source.is_set("data.seq_len"));
  EXPECT_TRUE(c.source.is_set("data"));
  EXPECT_TRUE(c.source.is_set("share"));
  EXPECT_FALSE(c.source.is_set("data.path"));
  EXPECT_FALSE(c.source.is_set("optimizer"));
  EXPECT_FALSE(read("optimizer: {}").source.is_set("optimizer"));
  EXPECT_THROW(c.source.is_set("data.pth"), std::logic_error);
  EXPECT_STREQ(c.source.error("data.seq_len", "too long").what(),
               (file + ":4:3: `data.seq_len`: too long").c_str());
  EXPECT_STREQ(c.source.error("data.path", "no").what(), (file + ":3:1: `data.path`: no").c_str());
  EXPECT_STREQ(c.source.error("optimizer.lr", "no").what(),
               (file + ": `optimizer.lr`: no").c_str());
  EXPECT_STREQ(c.source.error("share", "no").what(), "--set share=1: `share`: no");
  c.source.require("data.seq_len");
  EXPECT_EQ(
      CONCLAVE_MESSAGE_OF(ConfigError, (c.source.require("data.path"), 0)),
      file + ":3:1: `data.path`: is required; set it in the file or with --set data.path=VALUE");
}

}  // namespace
}  // namespace conclave
