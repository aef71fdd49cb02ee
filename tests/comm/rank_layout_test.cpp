// Layouts: what is left out is filled in, every rule refuses with the next valid value, and the two
// views agree.
#include "comm/rank_layout.h"

#include <gtest/gtest.h>

#include <set>

#include "cases.h"

namespace conclave::comm {
namespace {

ConfigError error(const std::string& key, const std::string& message) {
  return ConfigError("`parallel." + key + "`: " + message);
}

RankLayout layout(const ParallelConfig& c, int world, int64_t experts = 24, int per_node = 0) {
  return make_layout(
      c, {.world = world, .ranks_per_node = per_node ? per_node : world, .experts = experts},
      error);
}

std::string refusal(const ParallelConfig& c, int world, int64_t experts = 24, int per_node = 0) {
  return message_of([&] { layout(c, world, experts, per_node); });
}

TEST(RankLayout, FillsInWhatIsLeftOut) {
  EXPECT_EQ(layout({}, 1), (RankLayout{1, 1, 1, 1}));
  EXPECT_EQ(layout({}, 8), (RankLayout{1, 8, 8, 1}));
  EXPECT_EQ(layout({}, 8, 0), (RankLayout{1, 8, 1, 1}));         // no experts
  EXPECT_EQ(layout({}, 8, 12), (RankLayout{1, 8, 4, 1}));        // 8 does not divide 12
  EXPECT_EQ(layout({}, 16, 128, 8), (RankLayout{1, 16, 8, 1}));  // within a node
  EXPECT_EQ(layout({.dp_replicate = 2}, 8), (RankLayout{2, 4, 8, 1}));
  EXPECT_EQ(layout({.dp_shard = 2}, 8), (RankLayout{4, 2, 8, 1}));
  EXPECT_EQ(layout({.ep = 2, .ep_replicate = 2}, 8), (RankLayout{1, 8, 2, 2}));
  EXPECT_EQ(layout({.ep = 2}, 8).ep_shard(), 4);
}

TEST(RankLayout, RefusesACapacityWithoutEffect) {
  EXPECT_EQ(layout({.ep = 2, .capacity = 1.25}, 8).ep, 2);
  EXPECT_EQ(refusal({.ep = 2, .dispatcher = "all_gather", .capacity = 1.25}, 8),
            "`parallel.capacity`: has no effect with dispatcher all_gather, which sends every row "
            "anyway; leave it out");
  EXPECT_EQ(refusal({.ep = 1, .capacity = 1.25}, 8),
            "`parallel.capacity`: has no effect with ep 1, where rows stay where they are; leave "
            "it out");
}

TEST(RankLayout, RefusesWithTheNextValue) {
  EXPECT_EQ(
      refusal({.dp_shard = 3}, 8),
      "`parallel.dp_shard`: expected a divisor of the 8 ranks, got 3; the next that fits is 4");
  EXPECT_EQ(
      refusal({.dp_replicate = 16}, 8),
      "`parallel.dp_replicate`: expected a divisor of the 8 ranks, got 16; the next that fits "
      "is 8");
  EXPECT_EQ(refusal({.dp_replicate = 2, .dp_shard = 2}, 8),
            "`parallel.dp_replicate`: with dp_shard 2 it makes 4 ranks, expected 8; the next that "
            "fits is 4");
  EXPECT_EQ(refusal({.ep = 3}, 8),
            "`parallel.ep`: expected a divisor of the 8 ranks, got 3; the next that fits is 4");
  EXPECT_EQ(refusal({.ep = 4}, 8, 6),
            "`parallel.ep`: expected a divisor of the 6 experts, got 4; the next that fits is 2");
  EXPECT_EQ(
      refusal({.ep = 6}, 24, 24, 8),
      "`parallel.ep`: expected ranks that lie in one node of 8 or fill whole ones, got 6; the "
      "next that fits is 8");
  EXPECT_EQ(refusal({.ep = 2}, 8, 0), "`parallel.ep`: the model has no experts; expected 1");
  EXPECT_EQ(refusal({.ep = 4, .ep_replicate = 4}, 8),
            "`parallel.ep_replicate`: expected a divisor of the 2 groups of ep 4 ranks, got 4; the "
            "next that fits is 2");
  EXPECT_EQ(refusal({.ep_replicate = 2}, 8, 0),
            "`parallel.ep_replicate`: the model has no experts; expected 1");
}

// For 1 … 12 ranks and every section: refused, or the sizes are as asked for and make the world.
TEST(RankLayout, EverySectionIsRefusedOrObeyed) {
  int taken = 0;
  for (int world = 1; world <= 12; ++world)
    for (int64_t r = 0; r <= 13; ++r)
      for (int64_t s = 0; s <= 13; ++s)
        for (int64_t ep = 0; ep <= 13; ++ep)
          for (int64_t copies : {0, 1, 2, 3}) {
            const auto given = [](int64_t n) {
              return n ? std::optional<int64_t>(n) : std::nullopt;
            };
            RankLayout l;
            try {
              l = layout({given(r), given(s), given(ep), given(copies)}, world);
            } catch (const ConfigError& e) {
              continue;
            }
            ++taken;
            ASSERT_TRUE(!r || l.dp_replicate == r);
            ASSERT_TRUE(!s || l.dp_shard == s);
            ASSERT_TRUE(!ep || l.ep == ep);
            ASSERT_TRUE(!copies || l.ep_replicate == copies);
            ASSERT_EQ(l.world(), world);
            ASSERT_EQ(l.ep * l.ep_shard() * l.ep_replicate, world);
            ASSERT_EQ(24 % l.ep, 0);
          }
  EXPECT_GT(taken, 1000);
}

TEST(RankLayout, ExpertRanksAreNeighbours) {
  const RankLayout l{.dp_replicate = 2, .dp_shard = 4, .ep = 2, .ep_replicate = 2};
  EXPECT_EQ(l.dense().group(5, "dp_shard"), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(l.dense().group(5, "dp_replicate"), (std::vector<int>{1, 5}));
  EXPECT_EQ(l.experts().group(5, "ep"), (std::vector<int>{4, 5}));
  EXPECT_EQ(l.experts().group(5, "ep_shard"), (std::vector<int>{5, 7}));
  EXPECT_EQ(l.experts().group(5, "ep_replicate"), (std::vector<int>{1, 5}));
  EXPECT_EQ(l.text(), "dp_replicate 2 · dp_shard 4, ep_replicate 2 · ep_shard 2 · ep 2");
}

}  // namespace
}  // namespace conclave::comm
