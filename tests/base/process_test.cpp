#include "base/process.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace conclave {
namespace {

TEST(Process, SecondsSinceLaunchGoOn) {
  const double before = seconds_since_launch();
  EXPECT_GE(before, 0);
  EXPECT_LT(before, 600);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_NEAR(seconds_since_launch() - before, 0.03, 0.03);
}

}  // namespace
}  // namespace conclave
