// Values of the collectives between ranks that are threads; what happens when they disagree is in
// meeting_test.cpp.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "cases.h"
#include "comm/comm.h"

namespace conclave::comm {
namespace {

constexpr int kSizes[] = {1, 2, 4};

at::Tensor random(int rank, int64_t n, at::ScalarType dtype) {  // of very different magnitudes
  std::mt19937 draw(static_cast<unsigned>(17 + rank));
  at::Tensor x = at::empty({n}, at::kDouble);
  for (int64_t i = 0; i < n; ++i)
    x.mutable_data_ptr<double>()[i] =
        std::ldexp(static_cast<double>(draw()) / 4294967296.0 - 0.5, static_cast<int>(draw() % 20));
  return x.to(dtype);
}

// Σ over ranks of random(rank) in rank order, one addition at a time.
at::Tensor sum_by_hand(int size, int64_t n, at::ScalarType dtype) {
  const auto wide = dtype == at::kBFloat16 ? at::kFloat : dtype;
  at::Tensor sum = random(0, n, dtype).to(wide);
  for (int r = 1; r < size; ++r) sum += random(r, n, dtype).to(wide);
  return sum.to(dtype);
}

TEST(Threads, AllGather) {
  for (int size : kSizes)
    for (auto dtype : {at::kDouble, at::kBFloat16, at::kShort})
      for (int64_t n : {0, 1, 5, 1000})
        run_threads(size, [=](Comm& comm) {
          at::Tensor out = at::full({size, n}, -1, dtype);
          comm.all_gather(out, numbered(comm.rank(), n, dtype));
          for (int r = 0; r < size; ++r) EXPECT_TRUE(at::equal(out[r], numbered(r, n, dtype)));
        });
}

TEST(Threads, AllGatherInPlace) {
  for (int size : kSizes)
    run_threads(size, [=](Comm& comm) {
      at::Tensor out = at::full({size * 5}, -1.0, at::kDouble);
      out.narrow(0, comm.rank() * 5, 5).copy_(numbered(comm.rank(), 5));
      comm.all_gather(out, out.narrow(0, comm.rank() * 5, 5));
      for (int r = 0; r < size; ++r)
        EXPECT_TRUE(at::equal(out.narrow(0, r * 5, 5), numbered(r, 5)));
    });
}

TEST(Threads, ReduceScatterAddsInRankOrder) {
  for (int size : kSizes)
    for (auto dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kLong})
      for (int64_t n : {0, 1, 7, 3000})
        for (bool in_place : {false, true})
          run_threads(size, [=](Comm& comm) {
            at::Tensor in = random(comm.rank(), size * n, dtype);
            at::Tensor range = in.narrow(0, comm.rank() * n, n);
            at::Tensor out = in_place ? range : at::full({n}, -1, dtype);
            comm.reduce_scatter(out, in);
            const at::Tensor all = sum_by_hand(size, size * n, dtype);
            EXPECT_TRUE(at::equal(out, all.narrow(0, comm.rank() * n, n)));
            if (in_place)
              in.narrow(0, comm.rank() * n, n)
                  .copy_(random(comm.rank(), size * n, dtype).narrow(0, comm.rank() * n, n));
            EXPECT_TRUE(at::equal(in, random(comm.rank(), size * n, dtype)));
          });
}

TEST(Threads, AllReduceGivesEveryRankTheSameBits) {
  for (int size : kSizes)
    for (auto dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kLong})
      for (int64_t n : {0, 1, 3, 5000})
        run_threads(size, [=](Comm& comm) {
          at::Tensor x = random(comm.rank(), n, dtype);
          comm.all_reduce(x);
          EXPECT_TRUE(at::equal(x, sum_by_hand(size, n, dtype)));
        });
}

TEST(Threads, BFloat16IsAddedInFloatAndRoundedOnce) {
  run_threads(4, [](Comm& comm) {
    // In bf16, 256 + 1 is 256 again; in fp32 the sum is 259 and rounds to 260.
    at::Tensor x = at::full({1}, comm.rank() == 0 ? 256.0 : 1.0, at::kBFloat16);
    comm.all_reduce(x);
    EXPECT_EQ(x.item<double>(), 260.0);
  });
}

TEST(Threads, AllToAllUnevenAndEmpty) {
  for (int size : kSizes)
    for (int64_t width : {0, 3}) {
      // Rank r sends (r + 2 s) mod 3 rows to rank s.
      const auto rows = [](int from, int to) { return int64_t{(from + 2 * to) % 3}; };
      run_threads(size, [=](Comm& comm) {
        std::vector<int64_t> send, receive;
        std::vector<at::Tensor> in_rows, out_rows;
        const auto row = [=](int from, int to, int64_t i) {
          return at::full({width}, 100.0 * from + 10.0 * to + static_cast<double>(i), at::kFloat);
        };
        for (int r = 0; r < size; ++r) {
          send.push_back(rows(comm.rank(), r));
          receive.push_back(rows(r, comm.rank()));
          for (int64_t i = 0; i < send.back(); ++i) in_rows.push_back(row(comm.rank(), r, i));
          for (int64_t i = 0; i < receive.back(); ++i) out_rows.push_back(row(r, comm.rank(), i));
        }
        const auto stack = [&](const std::vector<at::Tensor>& r) {
          return r.empty() ? at::empty({0, width}, at::kFloat) : at::stack(r);
        };
        at::Tensor out = at::full({static_cast<int64_t>(out_rows.size()), width}, -1.0, at::kFloat);
        comm.all_to_all(out, stack(in_rows), receive, send);
        EXPECT_TRUE(at::equal(out, stack(out_rows)));
      });
    }
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
      at::Tensor x = random(comm.rank(), 10'001, at::kFloat);
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
