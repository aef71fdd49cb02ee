// Ranks that disagree, leave early or throw: every rank gets a message, and nobody waits for ever.
#include "comm/meeting.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "cases.h"
#include "comm/comm.h"

namespace conclave::comm {
namespace {

// What each rank's body throws, by rank; run_threads' own throw is left out.
std::vector<std::string> messages(int size, const std::function<void(Comm&)>& body) {
  std::vector<std::string> all(static_cast<size_t>(size));
  message_of([&] {
    run_threads(size, [&](Comm& comm) {
      try {
        body(comm);
      } catch (const c10::Error& e) {
        all[static_cast<size_t>(comm.rank())] = e.what_without_backtrace();
        throw;
      } catch (const std::exception& e) {
        all[static_cast<size_t>(comm.rank())] = e.what();
        throw;
      }
    });
  });
  return all;
}

void expect_everywhere(const std::vector<std::string>& messages, const std::string& expected) {
  for (const std::string& m : messages) EXPECT_EQ(m, expected);
}

at::Tensor zeros(int64_t n, at::ScalarType dtype = at::kFloat) { return at::zeros({n}, dtype); }

TEST(Meeting, AnotherOperationThrowsOnAllRanks) {
  expect_everywhere(
      messages(4,
               [](Comm& comm) {
                 comm.barrier();
                 comm.rank() == 2 ? comm.all_reduce(zeros(3)) : comm.barrier();
               }),
      "ranks differ: rank 0 called #2 barrier, rank 2 called #2 all_reduce Float [3]");
}

TEST(Meeting, AnotherShapeOrDtypeThrowsOnAllRanks) {
  expect_everywhere(messages(2, [](Comm& comm) { comm.all_reduce(zeros(3 + comm.rank())); }),
                    "ranks differ: rank 0 called #1 all_reduce Float [3], rank 1 called #1 "
                    "all_reduce Float [4]");
  expect_everywhere(
      messages(
          2,
          [](Comm& comm) { comm.all_gather(zeros(8 + 2 * comm.rank()), zeros(4 + comm.rank())); }),
      "ranks differ: rank 0 called #1 all_gather Float [4], rank 1 called #1 all_gather Float [5]");
  expect_everywhere(
      messages(
          2, [](Comm& comm) { comm.all_reduce(zeros(3, comm.rank() ? at::kDouble : at::kFloat)); }),
      "ranks differ: rank 0 called #1 all_reduce Float [3], rank 1 called #1 all_reduce Double "
      "[3]");
}

TEST(Meeting, CountsOfRowsThatDoNotFitThrowOnAllRanks) {
  using Counts = std::vector<int64_t>;
  expect_everywhere(
      messages(
          2,
          [](Comm& comm) {
            const Counts send = comm.rank() ? Counts{2, 0} : Counts{1, 2};
            const Counts receive = comm.rank() ? Counts{3, 0} : Counts{1, 2};
            comm.all_to_all(at::zeros({3, 5}), at::zeros({send[0] + send[1], 5}), receive, send);
          }),
      "ranks differ: rank 0 sends 2 rows to rank 1, which receives 3 from it; rank 0 called #1 "
      "all_to_all Float rows of [5] sending [1, 2] receiving [1, 2], rank 1 called #1 all_to_all "
      "Float rows of [5] sending [2, 0] receiving [3, 0]");
}

TEST(Meeting, NoCallMatchesAfterAMismatch) {
  run_threads(2, [](Comm& comm) {
    const std::string first =
        message_of([&] { comm.rank() ? comm.barrier() : comm.all_reduce(zeros(1)); });
    EXPECT_NE(first, "");
    EXPECT_EQ(message_of([&] { comm.barrier(); }), first);
  });
}

TEST(Meeting, ACallThatBreaksItsContractIsNotMadeGoodByGoingOn) {
  const auto all = messages(2, [](Comm& comm) {
    if (comm.rank() == 1) message_of([&] { comm.all_reduce(at::Tensor()); });
    comm.barrier();
  });
  expect_everywhere(all, "ranks differ: rank 0 called #1 barrier, rank 1 called #2 barrier");
}

TEST(Meeting, ARankThatReturnsEarlyIsMissed) {
  for (bool late : {false, true}) {  // before and after the others wait
    const auto all = messages(4, [=](Comm& comm) {
      comm.barrier();
      if (comm.rank() == 1 && late) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (comm.rank() == 1) return;
      if (!late) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      comm.all_reduce(zeros(2));
    });
    EXPECT_EQ(all[1], "");
    for (size_t r : {0, 2, 3}) {
      EXPECT_TRUE(all[r].starts_with("rank " + std::to_string(r) +
                                     " waits in #2 all_reduce Float [2], but rank "))
          << all[r];
    }
    EXPECT_TRUE(all[0].ends_with("rank 1 has left: it returned") || late) << all[0];
  }
}

TEST(Meeting, RanksMayReturnAtTheirOwnPaceAfterTheLastCall) {
  for (int i = 0; i < 50; ++i)
    run_threads(4, [](Comm& comm) {
      at::Tensor x = zeros(5);
      comm.all_reduce(x);
    });
}

TEST(Meeting, TheExceptionOfTheRankThatThrewIsThrownAgain) {
  const auto body = [](Comm& comm) {
    if (comm.rank() == 2) throw std::out_of_range("lost batch");
    comm.barrier();
  };
  EXPECT_THROW(run_threads(4, body), std::out_of_range);
  const auto all = messages(4, body);
  EXPECT_EQ(all[2], "lost batch");
  EXPECT_TRUE(all[0].starts_with("rank 0 waits in #1 barrier, but rank ")) << all[0];
}

TEST(Meeting, OfSeveralExceptionsTheLowestRanksIsThrownAgain) {
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(message_of([&] {
                run_threads(4, [&](Comm& comm) {
                  comm.barrier();
                  if (comm.rank() == (i % 2 ? 1 : 3))
                    std::this_thread::sleep_for(std::chrono::milliseconds(2));
                  if (comm.rank() % 2)
                    throw std::runtime_error("of rank " + std::to_string(comm.rank()));
                  comm.barrier();
                });
              }),
              "of rank 1");
}

TEST(Meeting, SomethingThatIsNoExceptionIsThrownAgainToo) {
  EXPECT_THROW(run_threads(2, [](Comm& comm) { comm.rank() ? throw 7 : comm.barrier(); }), int);
}

TEST(Meeting, ARunOfItsOwnStartsAnew) {
  EXPECT_NE(message_of([] { run_threads(2, [](Comm& c) { c.rank() ? c.barrier() : void(); }); }),
            "");
  run_threads(2, [](Comm& comm) { comm.barrier(); });
  EXPECT_EQ(message_of([] { run_threads(0, [](Comm&) {}); }),
            "run_threads: expected at least 1 rank, got 0");
}

TEST(Meeting, RefusesOverlapThatIsNotThisRanksRange) {
  run_threads(2, [](Comm& comm) {
    const at::Tensor whole = zeros(8);
    const at::Tensor other = whole.narrow(0, 4 - 4 * comm.rank(), 4);
    EXPECT_EQ(message_of([&] { comm.all_gather(whole, other); }),
              "all_gather: `in` and `out` overlap, but not as this rank's (" +
                  std::to_string(comm.rank()) + ") range of the larger one");
  });
}

}  // namespace
}  // namespace conclave::comm
