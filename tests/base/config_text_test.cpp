#include <gtest/gtest.h>

#include "base/config_demo.h"

namespace conclave {
namespace {

TEST_F(ConfigTest, TheDumpReadsBackToTheSameValues) {
  Demo c;
  c.clip = 0.1;
  c.note = "null";
  c.optimizer.lr = 0.1 + 0.2;
  c.data.files = {
      "",    "a b",  "true", "1e5", "quote\" and \\ and\nline\tand \x01 and é", "plain/path-1.txt",
      "- x", "a: b", "#"};
  c.data.path = "~";
  std::string text = dump_config(c);
  Demo again = read(text).value;
  EXPECT_EQ(dump_config(again), text);
  EXPECT_EQ(again.note, c.note);
  EXPECT_EQ(again.optimizer.lr, c.optimizer.lr);
  EXPECT_EQ(again.data.files, c.data.files);
  EXPECT_EQ(again.data.path, c.data.path);
  EXPECT_EQ(dump_config(Optimizer{}),
            "lr: 0.0003\nbetas: [0.9, 0.95]\nweight_decay: 0.1\nschedule: cosine\n");
  EXPECT_NE(text.find("\noptimizer:\n  lr: 0.30000000000000004\n"), std::string::npos) << text;
}

TEST(ListKeys, OneAlignedLineAKey) {
  EXPECT_EQ(list_keys<Optimizer>(),
            "lr            number       0.0003       peak learning rate (> 0)\n"
            "betas         two numbers  [0.9, 0.95]  decay of the two moments (>= 0 and < 1)\n"
            "weight_decay  number       0.1          on matrices only (>= 0)\n"
            "schedule      text         cosine       shape (cosine, wsd or constant)\n");
  std::vector<ConfigKey> keys = config_keys<Demo>();
  EXPECT_EQ(keys[2].type, "number or null");
  EXPECT_EQ(keys[6].path, "optimizer");
  EXPECT_EQ(keys[6].type, "");
  EXPECT_EQ(keys[8].path, "optimizer.betas");
  EXPECT_EQ(keys[14].path, "data.files");
  EXPECT_EQ(keys[14].type, "list of text");
  EXPECT_EQ(keys.back().path, "share");
}

}  // namespace
}  // namespace conclave
