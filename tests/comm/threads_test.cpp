// Values of the collectives between ranks that are threads; what happens when they disagree is in
// meeting_test.cpp.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <atomic>

#include "collective_cases.h"
#include "comm/comm.h"

namespace conclave::comm {
namespace {

constexpr int kSizes[] = {1, 2, 4};

TEST(Threads, TheValuesOfAllCollectives) {
  for (int size : kSizes)
    run_threads(size, [](Comm& comm) { CollectiveCases(comm, at::kCPU).run(); });
}

TEST(Threads, BFloat16IsAddedInFloatAndRoundedOnce) {
  run_threads(4, [](Comm& comm) {
    // In bf16, 256 + 1 is 256 again; in fp32 the sum is 259 and rounds to 260.
    at::Tensor x = at::full({1}, comm.rank() == 0 ? 256.0 : 1.0, at::kBFloat16);
    comm.all_reduce(x);
    EXPECT_EQ(x.item<double>(), 260.0);
  });
}

TEST(Threads, BarrierWaitsForAll) {
  for (int size : kSizes) {
    std::atomic<int> before = 0;
    run_threads(size, [&](Comm& comm) {
      for (int i = 1; i <= 20; ++i) {
        ++before;
        comm.barrier();
        EXPECT_GE(before.load(), i * size);
        comm.barrier();
      }
    });
  }
}

TEST(Threads, BuffersMayBeUsedAgainAtOnce) {
  run_threads(4, [](Comm& comm) {
    at::Tensor x = at::full({257}, comm.rank(), at::kDouble),
               out = at::empty({4 * 257}, at::kDouble);
    for (int i = 0; i < 200; ++i) {
      comm.all_gather(out, x);
      x.fill_(comm.rank() + i);  // another rank that still read would see it
      EXPECT_EQ(out[3 * 257].item<double>(), 3.0 + (i == 0 ? 0 : i - 1));
      EXPECT_EQ(out[0].item<double>(), i == 0 ? 0.0 : i - 1.0);
    }
  });
}

TEST(Threads, RepeatedRunsGiveTheSameBits) {
  const auto run = [](int threads) {
    at::Tensor result;
    at::set_num_threads(threads);
    run_threads(4, [&](Comm& comm) {
      at::Tensor x = CollectiveCases::random(comm.rank(), 10'001, at::kFloat);
      for (int i = 0; i < 5; ++i) {
        comm.all_reduce(x);
        x *= 0.3F + 0.01F * static_cast<float>(comm.rank());
      }
      comm.all_reduce(x);
      if (comm.rank() == 0) result = x;
    });
    return result;
  };
  const int threads = at::get_num_threads();
  const at::Tensor first = run(1);
  for (int t : {1, 2, 4}) EXPECT_TRUE(at::equal(first, run(t)));
  at::set_num_threads(threads);
}

TEST(Threads, ThreadsStartLikeTheCaller) {
  const int threads = at::get_num_threads();
  at::set_num_threads(3);
  for (bool grad : {false, true}) {
    const at::AutoGradMode mode(grad);
    run_threads(2, [=](Comm&) {
      EXPECT_EQ(at::GradMode::is_enabled(), grad);
      EXPECT_EQ(at::get_num_threads(), 3);
    });
  }
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace conclave::comm
