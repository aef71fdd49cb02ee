#include "train/slowest_rank.h"

#include <gtest/gtest.h>

namespace conclave::train {
namespace {

TEST(SlowestRank, IsTheOneWithTheShortestCalls) {
  SlowestRank slowest;
  EXPECT_FALSE(slowest.lag());
  EXPECT_EQ(slowest.text(), "");
  for (int i = 0; i < 3; ++i) slowest.add({0.60, 0.70, 0.40, 0.62}, 2);
  EXPECT_EQ(slowest.lag()->rank, 2);
  EXPECT_NEAR(slowest.lag()->of_step, 0.11, 1e-12);  // against the middle of 0.30, 0.31, 0.35
  EXPECT_EQ(slowest.text(), "slowest rank 2 (+11 %)");
}

TEST(SlowestRank, LittleIsNotWorthSaying) {
  SlowestRank slowest;
  slowest.add({0.20, 0.24}, 1);
  EXPECT_EQ(slowest.lag()->rank, 0);
  EXPECT_EQ(slowest.text(), "");
}

TEST(SlowestRank, OneSlowStepAmongManyIsForgotten) {
  SlowestRank slowest;
  for (int i = 0; i < 60; ++i) slowest.add({0.2, 0.2}, 1);
  slowest.add({0.1, 0.9}, 1);
  EXPECT_EQ(slowest.text(), "") << "a twentieth of 0.8";
  for (int i = 0; i < 60; ++i) slowest.add({0.5, 0.1}, 1);
  EXPECT_EQ(slowest.lag()->rank, 1);
}

TEST(SlowestRank, OneRankHasNoOthers) {
  SlowestRank slowest;
  slowest.add({0.0}, 1);
  EXPECT_FALSE(slowest.lag());
}

}  // namespace
}  // namespace conclave::train
