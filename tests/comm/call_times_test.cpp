#include "comm/call_times.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace conclave::comm {
namespace {

TEST(CallTimes, WhoIsWaitedForHasTheShortestCalls) {
  constexpr int kRanks = 3, kLate = 1;
  std::vector<double> first(kRanks), second(kRanks);
  run_thread_ranks(kRanks, [&](CommFactory& factory) {
    CallTimes times;
    TimedFactory timed(factory, times);
    std::vector<int> all(kRanks);
    std::iota(all.begin(), all.end(), 0);
    const auto comm = timed.make(all, "all");
    const auto me = static_cast<size_t>(factory.rank());
    const auto calls = [&](int count) {
      for (int i = 0; i < count; ++i) {
        if (factory.rank() == kLate) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        comm->all_reduce(at::zeros({4}));
      }
    };
    calls(2);
    times.open();  // what was before does not count
    calls(5);
    const CallTimes::Round round = times.close();
    calls(1);
    first[me] = round.seconds();
    second[me] = times.close().seconds();  // a round closed opens the next
  });
  for (int rank : {0, 2}) {
    EXPECT_GT(first[static_cast<size_t>(rank)], 0.08);
    EXPECT_GT(second[static_cast<size_t>(rank)], 0.015);
    EXPECT_LT(first[kLate], first[static_cast<size_t>(rank)]);
  }
}

}  // namespace
}  // namespace conclave::comm
