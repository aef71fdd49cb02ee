#include "base/text.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

TEST(Text, Format) {
  EXPECT_EQ(format("%d of %s, %.2f", 3, "x", 0.5), "3 of x, 0.50");
  EXPECT_EQ(format("%s", std::string(5000, 'y').c_str()), std::string(5000, 'y'));
  EXPECT_EQ(format("%s", ""), "");
}

TEST(Text, JoinAndSplit) {
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(join({"a", "b"}, ", "), "a, b");
  EXPECT_EQ(join_or({"a"}), "a");
  EXPECT_EQ(join_or({"a", "b", "c"}), "a, b or c");
  EXPECT_EQ(split("a..b", '.'), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(split("", '.'), (std::vector<std::string>{""}));
  EXPECT_EQ(split("a.", '.'), (std::vector<std::string>{"a", ""}));
}

TEST(Text, EditDistance) {
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("deacy", "decay"), 1);
  EXPECT_EQ(edit_distance("same", "same"), 0);
}

TEST(Text, Nearest) {
  EXPECT_EQ(nearest("weight_deacy", {"lr", "weight_decay", "eps"}), "weight_decay");
  EXPECT_EQ(nearest("lrr", {"eps", "lr"}), "lr");
  EXPECT_EQ(nearest("xyzzy", {"lr", "eps"}), "");
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(Text, ShortestReadsBack) {
  EXPECT_EQ(shortest(3e-4), "0.0003");
  EXPECT_EQ(shortest(1e-8), "1e-08");
  EXPECT_EQ(shortest(2), "2");
  EXPECT_EQ(shortest(1e6), "1000000");
  EXPECT_EQ(shortest(1e300), "1e+300");
  EXPECT_EQ(shortest(0), "0");
  EXPECT_EQ(std::stod(shortest(0.1 + 0.2)), 0.1 + 0.2);
}

}  // namespace
}  // namespace conclave
