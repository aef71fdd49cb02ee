// Groups of thread ranks: each talks to its own members only, at its own pace; ranks that wait for
// one another in different groups are told so.
#include "comm/groups.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <thread>

#include "cases.h"

namespace conclave::comm {
namespace {

// A rank's sum over the group tells who is in it.
int64_t members(Comm& comm, int rank) {
  at::Tensor x = at::full({1}, int64_t{1} << rank, at::kLong);
  comm.all_reduce(x);
  return x.item<int64_t>();
}

int64_t bits(const std::vector<int>& ranks) {
  int64_t all = 0;
  for (int r : ranks) all |= int64_t{1} << r;
  return all;
}

TEST(Groups, AreThoseOfTheLayout) {
  for (const RankLayout& l :
       {RankLayout{1, 1, 1, 1}, RankLayout{2, 4, 2, 1}, RankLayout{2, 4, 2, 4},
        RankLayout{1, 8, 8, 1}, RankLayout{3, 2, 3, 2}, RankLayout{1, 6, 2, 3}})
    run_thread_ranks(l.world(), [&](CommFactory& factory) {
      const int rank = factory.rank();
      const Groups g = make_groups(l, factory);
      EXPECT_EQ(members(*g.world, rank), (int64_t{1} << l.world()) - 1);
      const std::pair<Comm*, std::vector<int>> groups[] = {
          {g.dp_shard.get(), l.dense().group(rank, "dp_shard")},
          {g.dp_replicate.get(), l.dense().group(rank, "dp_replicate")},
          {g.ep.get(), l.experts().group(rank, "ep")},
          {g.ep_shard.get(), l.experts().group(rank, "ep_shard")},
          {g.ep_replicate.get(), l.experts().group(rank, "ep_replicate")}};
      for (const auto& [comm, ranks] : groups) {
        ASSERT_EQ(comm->size(), static_cast<int>(ranks.size()));
        EXPECT_EQ(ranks[static_cast<size_t>(comm->rank())], rank);
        if (comm->size() > 1) {
          EXPECT_EQ(members(*comm, rank), bits(ranks));
        }
      }
    });
}

TEST(Groups, GoOnWhileOthersHaveLeft) {
  run_thread_ranks(4, [](CommFactory& factory) {
    const int rank = factory.rank();
    const auto pair = factory.make(rank < 2 ? std::vector{0, 1} : std::vector{2, 3}, "pair");
    if (rank >= 2) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_EQ(members(*pair, rank), 3);
  });
}

std::vector<std::string> messages(int size, const std::function<void(CommFactory&)>& body) {
  std::vector<std::string> all(static_cast<size_t>(size));
  message_of([&] {
    run_thread_ranks(size, [&](CommFactory& factory) {
      std::string& mine = all[static_cast<size_t>(factory.rank())];
      mine = message_of([&] { body(factory); });
      if (!mine.empty()) throw std::runtime_error(mine);
    });
  });
  return all;
}

// 0 waits for 1 in a, 1 for 2 in b, 2 for 0 in c.
TEST(Groups, ACircleOfWaitsIsFound) {
  const auto all = messages(3, [](CommFactory& factory) {
    const int rank = factory.rank();
    const auto none = [&](int a, int b) { return rank != a && rank != b; };
    // Ranks outside a pair make a group of their own of its name.
    const auto make = [&](int a, int b, const std::string& name) {
      return factory.make(none(a, b) ? std::vector{rank} : std::vector{a, b}, name);
    };
    const auto a = make(0, 1, "a"), b = make(1, 2, "b"), c = make(0, 2, "c");
    (rank == 0 ? a : rank == 1 ? b : c)->barrier();
  });
  for (const auto& m : all)
    EXPECT_EQ(m,
              "all ranks wait for one another; rank 0 waits in a #1 barrier; rank 1 waits in b #1 "
              "barrier; rank 2 waits in c #1 barrier");
}

TEST(Groups, AMismatchNamesTheGroup) {
  const auto all = messages(4, [](CommFactory& factory) {
    const int rank = factory.rank();
    const auto pair = factory.make(rank < 2 ? std::vector{0, 1} : std::vector{2, 3}, "ep");
    at::Tensor x = at::full({rank == 3 ? 2 : 1}, 1.0);
    pair->all_reduce(x);
  });
  EXPECT_EQ(all[0], "");
  EXPECT_EQ(all[2], all[3]);
  EXPECT_EQ(
      all[2],
      "ep of ranks 2, 3: ranks differ: rank 0 called #1 all_reduce Float [1], rank 1 called #1 "
      "all_reduce Float [2]");
}

TEST(Groups, OneThatHasLeftIsMissedInAllItsGroups) {
  const auto all = messages(3, [](CommFactory& factory) {
    const auto early = factory.make({0, 1, 2}, "early");
    if (factory.rank() == 2) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(factory.rank() ? 20 : 0));
    (factory.rank() ? *factory.make({0, 1, 2}, "late") : *early).barrier();
  });
  EXPECT_TRUE(all[0].starts_with("rank 0 waits in early #1 barrier, but rank ")) << all[0];
  EXPECT_TRUE(all[1].starts_with("rank 1 waits in late #1 barrier, but rank ")) << all[1];
}

TEST(Groups, RefuseAnotherNameOrRanks) {
  const auto all = messages(2, [](CommFactory& factory) {
    factory.make({0, 1}, factory.rank() ? "ep" : "dp");
    factory.make({1 - factory.rank()}, "other");
  });
  EXPECT_TRUE(all[0].starts_with("group") && all[1].starts_with("group")) << all[0] << all[1];
}

}  // namespace
}  // namespace conclave::comm
