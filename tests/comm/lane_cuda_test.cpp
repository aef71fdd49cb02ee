// A lane is beside the caller's stream, and a wait is a wait.
#include <ATen/Context.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "comm/lane.h"
#include "ops/delay.h"

namespace conclave::comm {
namespace {

constexpr int64_t kLong = 50'000;  // µs

at::TensorOptions on_gpu() { return at::TensorOptions().dtype(at::kFloat).device(at::kCUDA, 0); }

TEST(LaneCuda, RunsBesideTheCallersStreamUntilItIsWaitedFor) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  const at::Device gpu(at::kCUDA, 0);
  Lane lane;
  lane.open("test", gpu, {});
  at::Tensor x = at::zeros({1000}, on_gpu());
  OnWay way = lane.start([&] { ops::delay(gpu, kLong), x.fill_(1); }, {x});
  const at::Tensor before = x.clone();  // a read that does not wait
  way.wait();
  const at::Tensor after = x.clone();
  EXPECT_EQ(before.sum().item().toDouble(), 0);
  EXPECT_EQ(after.sum().item().toDouble(), 1000);
}

TEST(LaneCuda, StartsBehindTheCallersWorkOrBehindMarksAlone) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  const at::Device gpu(at::kCUDA, 0);
  Lane lane;
  lane.open("test", gpu, {});
  at::Tensor x = at::zeros({1000}, on_gpu()), seen, early;
  const Mark mark = Mark::here(gpu);
  ops::delay(gpu, kLong);
  x.fill_(1);
  OnWay ahead = lane.start_behind({&mark, 1}, [&] { early = x.clone(); });
  OnWay behind = lane.start([&] { seen = x.clone(); }, {x});
  ahead.wait(), behind.wait();
  EXPECT_EQ(early.sum().item().toDouble(), 0);
  EXPECT_EQ(seen.sum().item().toDouble(), 1000);
}

// What a lane makes may be let go at any time; what it reads is held.
TEST(LaneCuda, MemoryIsNotTakenFromUnderTheOtherStream) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  const at::Device gpu(at::kCUDA, 0);
  constexpr int64_t n = int64_t{1} << 20;
  Lane lane;
  lane.open("test", gpu, {});
  at::Tensor sum = at::zeros({n}, on_gpu());
  for (int i = 1; i <= 20; ++i) {
    at::Tensor sent = at::full({n}, i, on_gpu()), made;
    OnWay way = lane.start([&] { ops::delay(gpu, 300), made = sent.clone(); }, {sent});
    sent.reset();
    const at::Tensor other = at::full({n}, -1000, on_gpu());  // may take what is free
    way.wait();
    ops::delay(gpu, 300);
    sum.add_(made);
    made.reset();
    lane.start([&] { at::full({n}, -1000, on_gpu()); }, {}).wait();
  }
  EXPECT_EQ(sum.min().item().toDouble(), 210);
  EXPECT_EQ(sum.max().item().toDouble(), 210);
}

}  // namespace
}  // namespace conclave::comm
