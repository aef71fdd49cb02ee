#include "base/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "base/timer.h"

namespace conclave {
namespace {

TEST(Memory, ResidentMemoryGrowsWithUse) {
  uint64_t before = resident_memory();
  std::vector<char> block(64 << 20);
  std::memset(block.data(), 1, block.size());
  EXPECT_GT(before, 0u);
  EXPECT_GT(resident_memory(), before + (32 << 20));
  EXPECT_GE(peak_resident_memory() + (16 << 20),
            resident_memory());  // the kernel counts in batches
  EXPECT_EQ(block[12345], 1);
}

TEST(Memory, TheProgramHadSomeAtTheStart) {
  EXPECT_GT(memory_at_start(), 0u);
  EXPECT_LE(memory_at_start(), peak_resident_memory() + (16 << 20));
}

TEST(Memory, AvailableMemoryIsALikelyNumber) {
  EXPECT_GT(available_memory(), uint64_t{1} << 20);
  EXPECT_LT(available_memory(), uint64_t{1} << 50);
}

TEST(CoreCount, IsAtMostTheMachines) {
  EXPECT_GE(core_count(), 1);
  EXPECT_LE(core_count(), static_cast<int64_t>(std::thread::hardware_concurrency()));
}

TEST(Timer, RunsForward) {
  Timer timer;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(timer.seconds(), 0.02);
  EXPECT_GE(timer.restart(), 0.02);
  EXPECT_LT(timer.seconds(), 0.02);
}

}  // namespace
}  // namespace conclave
