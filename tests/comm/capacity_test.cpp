#include "comm/capacity.h"

#include <gtest/gtest.h>

namespace conclave::comm {
namespace {

TEST(Capacity, EvenLoadIsTheMeanOfUniformRouting) {
  // Of 8 experts 2 a rank: a token of 2 choices misses a rank with 6/8 · 5/7.
  EXPECT_EQ(even_load({.tokens = 5600, .experts = 8, .top_k = 2, .ranks = 4}),
            (Capacity{2600, 11200}));
  // All experts chosen: every rank gets every token.
  EXPECT_EQ(even_load({.tokens = 10, .experts = 4, .top_k = 4, .ranks = 2}), (Capacity{10, 40}));
  EXPECT_EQ(highest_load({.tokens = 10, .experts = 8, .top_k = 3, .ranks = 4}), (Capacity{10, 80}));
}

TEST(CapacityRule, HasTheMarginAndFewDifferentValues) {
  const CapacityRule rule({.tokens = 100'000, .experts = 64, .top_k = 8, .ranks = 8}, 1.25);
  EXPECT_EQ(rule.above({1000, 9}), (Capacity{1280, 12}));
  int64_t before = 0, changes = 0;
  for (int64_t load = 512; load <= 1024; ++load) {
    const int64_t room = rule.above({load, load}).peer_rows;
    EXPECT_GE(room, 1.25 * static_cast<double>(load));
    EXPECT_LE(room, 1.25 * 1.125 * static_cast<double>(load) + 2);
    changes += room != before;
    before = room;
  }
  EXPECT_LE(changes, 10);
}

TEST(CapacityRule, NeedsNoMoreThanAnyRoutingAndNoLessThanTheLoad) {
  const CapacityRule rule({.tokens = 16, .experts = 8, .top_k = 2, .ranks = 4}, 2);
  EXPECT_EQ(rule.above({12, 100}), (Capacity{16, 128}));
  EXPECT_EQ(rule.above({20, 200}), (Capacity{20, 200}));  // more tokens than were told
  const CapacityRule all({.tokens = 16, .experts = 8, .top_k = 2, .ranks = 4}, 1e300);
  EXPECT_EQ(all.above({12, 100}), (Capacity{16, 128}));
}

TEST(CapacityRule, RisesAtOnceAndSinksAfterAWindow) {
  const LoadFacts facts{.tokens = 4096, .experts = 8, .top_k = 1, .ranks = 4};
  const CapacityRule rule(facts, 1.25);
  CapacityState state;
  rule.begin(state);
  EXPECT_EQ(state.now, rule.above(even_load(facts)));
  EXPECT_EQ(state.now, (Capacity{1280, 5120}));
  rule.follow(state, {1100, 2000}, 1);
  EXPECT_EQ(state.now, (Capacity{1408, 5120}));
  for (int64_t step = 2; step < CapacityRule::kWindow; ++step) rule.follow(state, {500, 700}, step);
  EXPECT_EQ(state.now, (Capacity{1408, 5120}));
  rule.follow(state, {500, 700}, CapacityRule::kWindow);  // the highest of the window: 1100, 2000
  EXPECT_EQ(state.now, (Capacity{1408, 2560}));
  for (int64_t step = 1; step <= CapacityRule::kWindow; ++step)
    rule.follow(state, {500, 700}, CapacityRule::kWindow + step);
  EXPECT_EQ(state.now, (Capacity{640, 896}));
  rule.rise(state, {2000, 10});
  EXPECT_EQ(state.now, (Capacity{2560, 896}));
}

TEST(CapacityRule, GoesOnWithAStateOfTheSameCutAlone) {
  const LoadFacts facts{.tokens = 4096, .experts = 8, .top_k = 1, .ranks = 4};
  const CapacityRule rule(facts, 1.25);
  const CapacityState kept{.ranks = 4, .tokens = 4096, .now = {99, 98}, .seen = {7, 6}};
  CapacityState state = kept;
  rule.begin(state);
  EXPECT_EQ(state.now, kept.now);
  EXPECT_EQ(state.seen, kept.seen);
  state.ranks = 2;
  rule.begin(state);
  EXPECT_EQ(state.now, rule.above(even_load(facts)));
  EXPECT_EQ(state.seen, Capacity{});
}

}  // namespace
}  // namespace conclave::comm
