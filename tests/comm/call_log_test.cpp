#include "comm/call_log.h"

#include <gtest/gtest.h>

#include "cases.h"

namespace conclave::comm {
namespace {

Call sum_of(int64_t n) { return {"all_reduce", at::kFloat, {n}, {}, {}}; }

TEST(CallLog, NumbersCallsByGroupAndKeepsTheLast) {
  CallLog log;
  const int dp = log.add_group("dp", {0, 1}), ep = log.add_group("ep", {0, 2});
  for (int i = 1; i <= 100; ++i) {
    Call call = sum_of(i);
    EXPECT_EQ(log.begin(dp, call), i);
    EXPECT_EQ(call.sequence, i);
    log.end(dp, i);
  }
  Call call = barrier_call();
  EXPECT_EQ(log.begin(ep, call), 1);
  EXPECT_EQ(log.current(dp), "dp #100 all_reduce Float [100]");
  EXPECT_EQ(log.current(ep), "ep #1 barrier");
  const auto lines = log.lines();
  ASSERT_EQ(lines.size(), CallLog::kKept);
  EXPECT_NE(lines.front().find("dp #38 all_reduce Float [38]"), std::string::npos) << lines.front();
  EXPECT_NE(lines.back().find("not ended     ep #1 barrier"), std::string::npos) << lines.back();
}

TEST(CallLog, CallsUnderWayEndInOrder) {
  CallLog log;
  const int dp = log.add_group("dp", {0, 1}), ep = log.add_group("ep", {0, 2});
  for (int i = 1; i <= 3; ++i) {
    Call call = sum_of(i);
    log.begin(dp, call);
  }
  Call call = barrier_call();
  log.end(ep, log.begin(ep, call));
  RankState state;
  log.fill(state);
  EXPECT_EQ(state.last, dp);
  EXPECT_EQ(state.groups[0].sequence, 1);
  EXPECT_EQ(state.groups[0].begun, 3);
  log.end_through(dp, 2);
  EXPECT_EQ(log.current(dp), "dp #3 all_reduce Float [3]");
  log.end(dp, 3);
  log.fill(state);
  EXPECT_EQ(state.last, ep);
  EXPECT_FALSE(state.groups[0].busy);
}

TEST(CallLog, AStateComesBackFromItsText) {
  CallLog log;
  log.add_group("world", {0, 1, 2});
  const int dp = log.add_group("dp", {1, 2});
  Call call = sum_of(4);
  log.begin(dp, call);
  RankState state{.rank = 2, .host = "node \"7\"", .pid = 1234, .beat = 9};
  log.fill(state);
  const RankState back = rank_state(to_text(state));
  EXPECT_EQ(to_text(back), to_text(state));
  EXPECT_EQ(back.groups[1].call, "#1 all_reduce Float [4]");
  EXPECT_TRUE(back.groups[1].busy);
  EXPECT_EQ(back.last, 1);
  EXPECT_NE(message_of([] { rank_state("{}"); }), "");
}

// Ranks 0 … n−1, each of which has come to call `sequence` of a group of all.
struct Picture {
  std::vector<RankState> before, now;
  explicit Picture(int n) {
    std::vector<int> all;
    for (int r = 0; r < n; ++r) all.push_back(r);
    for (int r = 0; r < n; ++r) {
      RankState s{.rank = r, .host = "h", .pid = 100 + r, .beat = 1};
      s.groups.push_back({"dp", all, 5, 5, "#5 barrier", true, 9});
      s.last = 0;
      before.push_back(s);
      ++s.beat;
      now.push_back(s);
    }
  }
  std::string text() const { return who_waits_for_whom(0, before, now); }
};

TEST(WhoWaitsForWhom, NamesTheRankThatHasNotCome) {
  Picture p(3);
  p.now[2].groups[0] = {"dp", {0, 1, 2}, 4, 4, "#4 all_reduce Float [8]", false, 47};
  EXPECT_EQ(
      p.text(),
      "rank 0 (h, pid 100) waits in `dp #5 barrier` for rank 2; rank 2 (h, pid 102) runs, but "
      "has not come: its last call was `dp #4 all_reduce Float [8]`, which ended 47 s ago");
}

TEST(WhoWaitsForWhom, NamesTheDeadAndTheGone) {
  Picture p(3);
  p.now[1].beat = 1;
  EXPECT_EQ(p.text(),
            "rank 0 (h, pid 100) waits in `dp #5 barrier` for rank 1; rank 1 (h, pid 101) does not "
            "answer any more, so it is dead or stopped; its last call was `dp #5 barrier`");
  p.now[1].beat = 2;
  p.now[1].left = "it ended";
  EXPECT_EQ(p.text(),
            "rank 0 (h, pid 100) waits in `dp #5 barrier` for rank 1; rank 1 (h, pid 101) has "
            "left: it ended");
  p.now[1] = p.before[1] = RankState{.rank = 1};
  EXPECT_EQ(p.text(),
            "rank 0 (h, pid 100) waits in `dp #5 barrier` for rank 1; rank 1 was never heard of");
}

TEST(WhoWaitsForWhom, FollowsThoseWhoWaitThemselves) {
  Picture p(4);
  p.now[1].groups[0].begun = p.now[1].groups[0].sequence = 4;
  p.now[1].groups[0].busy = false;
  p.now[1].groups.push_back({"ep", {1, 3}, 7, 7, "#7 barrier", true, 30});
  p.now[1].last = 1;
  p.now[3].beat = 1;
  EXPECT_EQ(
      p.text(),
      "rank 0 (h, pid 100) waits in `dp #5 barrier` for ranks 1, 3; rank 1 (h, pid 101) waits "
      "in `ep #7 barrier` for rank 3; rank 3 (h, pid 103) does not answer any more, so it is "
      "dead or stopped; its last call was `dp #5 barrier`");
}

TEST(WhoWaitsForWhom, AllAreThere) {
  EXPECT_EQ(Picture(2).text(),
            "rank 0 (h, pid 100) waits in `dp #5 barrier`, and so do all others of the group: is "
            "the network between them down?");
}

}  // namespace
}  // namespace conclave::comm
