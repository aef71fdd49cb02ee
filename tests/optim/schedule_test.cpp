#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace conclave::optim {
namespace {

constexpr double kPeak = 3e-4;
constexpr int64_t kSteps = 1000;

ScheduleConfig schedule(const std::string& kind) {
  ScheduleConfig s;
  s.kind = kind;
  return s;
}

TEST(Schedule, WarmUpRisesLinearlyToThePeak) {
  for (const char* kind : {"cosine", "wsd", "constant"}) {
    const ScheduleConfig s = schedule(kind);
    EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 1, kSteps), kPeak / 100) << kind;
    EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 50, kSteps), kPeak / 2) << kind;
    EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 100, kSteps), kPeak) << kind;
  }
}

TEST(Schedule, WithoutWarmUpTheFirstStepHasARate) {
  for (const char* kind : {"cosine", "wsd", "constant"}) {
    ScheduleConfig s = schedule(kind);
    s.warmup_steps = 0;
    const double rate = learning_rate(s, kPeak, 1, kSteps);
    EXPECT_GT(rate, 0.999 * kPeak) << kind;
    EXPECT_LE(rate, kPeak) << kind;
  }
}

TEST(Schedule, CosineIsHalfwayInTheMiddleAndEndsAtTheFloor) {
  const ScheduleConfig s = schedule("cosine");
  EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 550, kSteps), kPeak * (0.1 + 0.9 / 2));
  EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, kSteps, kSteps), kPeak * 0.1);
  for (int64_t step = 101; step <= kSteps; ++step)
    EXPECT_LT(learning_rate(s, kPeak, step, kSteps), learning_rate(s, kPeak, step - 1, kSteps));
}

TEST(Schedule, WsdHoldsThePeakThenFallsAsOneMinusTheRoot) {
  const ScheduleConfig s = schedule("wsd");  // decays over the last 200 steps
  for (int64_t step : {100, 101, 500, 800}) {
    EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, step, kSteps), kPeak) << step;
  }
  EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 850, kSteps), kPeak * (0.1 + 0.9 * (1 - 0.5)));
  EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, kSteps, kSteps), kPeak * 0.1);
}

TEST(Schedule, WsdWithoutDecayStaysAtThePeak) {
  ScheduleConfig s = schedule("wsd");
  s.decay_fraction = 0;
  EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, kSteps, kSteps), kPeak);
}

TEST(Schedule, ConstantStaysAtThePeak) {
  for (int64_t step : {100, 101, 999, 1000}) {
    EXPECT_DOUBLE_EQ(learning_rate(schedule("constant"), kPeak, step, kSteps), kPeak) << step;
  }
}

TEST(Schedule, AFloorOfOneIsConstantAndOfZeroEndsAtZero) {
  for (const char* kind : {"cosine", "wsd"}) {
    ScheduleConfig s = schedule(kind);
    s.min_ratio = 1;
    EXPECT_DOUBLE_EQ(learning_rate(s, kPeak, 900, kSteps), kPeak) << kind;
    s.min_ratio = 0;
    EXPECT_NEAR(learning_rate(s, kPeak, kSteps, kSteps), 0, 1e-18) << kind;
  }
}

TEST(Schedule, EndPointsAreExact) {
  for (const char* kind : {"cosine", "wsd"})
    for (double ratio : {0.0, 0.1, 0.3, 1.0})
      for (int64_t warmup : {0, 1, 7, 100}) {
        ScheduleConfig s = schedule(kind);
        s.min_ratio = ratio;
        s.warmup_steps = warmup;
        EXPECT_EQ(learning_rate(s, kPeak, std::max<int64_t>(warmup, 1), kSteps) == kPeak,
                  warmup > 0 || s.kind == "wsd" || ratio == 1)
            << kind << " " << ratio << " " << warmup;
        EXPECT_EQ(learning_rate(s, kPeak, kSteps, kSteps), kPeak * ratio) << kind;
      }
}

TEST(Schedule, ADecayOfTheWholeRunBeginsAfterTheWarmUp) {
  ScheduleConfig s = schedule("wsd");
  s.decay_fraction = 1;
  EXPECT_EQ(learning_rate(s, kPeak, 100, kSteps), kPeak);
  EXPECT_EQ(learning_rate(s, kPeak, kSteps, kSteps), kPeak * 0.1);
  EXPECT_LT(learning_rate(s, kPeak, 101, kSteps), kPeak);
}

}  // namespace
}  // namespace conclave::optim
