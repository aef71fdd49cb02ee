// The matrix of layouts (docs/bars.md, 6.1): every factorisation of the ranks × families ×
// dispatchers, three steps with clipping in fp64, as one rank computes them. Policies (recompute,
// micro-batches, releasing, reduction) go along so that each pair of their values is met with every
// family and dispatcher.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "ranks/rank.h"

namespace conclave::ranks {
namespace {

// Row of an orthogonal array of strength 2, in fact 3: all triples of values occur.
Policy policy(size_t row) {
  const bool a = row & 1, b = row & 2, c = row & 4;
  return {.recompute = a,
          .one_row_at_once = b,
          .together = b && a != c,
          .release = c,
          .reduction = (a != b) != c ? parallel::Reduction::all_to_all
                                     : parallel::Reduction::reduce_scatter};
}

constexpr const char* kDispatchers[] = {"all_to_all", "all_to_all_capacity", "all_gather"};

void expect_parity(const RunSpec& run) {
  for (const std::string& line : differences(run)) ADD_FAILURE() << run.text() << ": " << line;
}

class Matrix : public testing::TestWithParam<int> {};

TEST_P(Matrix, EqualsOneRank) {
  const int world = GetParam();
  size_t cell = 0, runs = 0;
  const auto all = layouts(world);
  for (const Family& family : families())
    for (const comm::RankLayout& layout : all)
      for (const char* dispatcher : kDispatchers) {
        if (layout.ep == 1 && dispatcher != std::string("all_to_all")) continue;
        expect_parity({&family, layout, dispatcher, policy(cell++)});
        ++runs;
      }
  std::printf("%d ranks: %zu layouts, %zu runs\n", world, all.size(), runs);
}
INSTANTIATE_TEST_SUITE_P(Ranks, Matrix, testing::Values(1, 2, 4, 6, 8),
                         testing::PrintToStringParamName());

// A few of each, for every change: both views cut and replicated, expert ranks that cross replicas.
TEST(Some, LayoutsEqualOneRank) {
  size_t cell = 0;
  for (const Family& family : families())
    for (const comm::RankLayout& layout :
         {comm::RankLayout{2, 1, 2, 1}, comm::RankLayout{1, 2, 1, 2}, comm::RankLayout{2, 2, 4, 1},
          comm::RankLayout{1, 4, 2, 2}, comm::RankLayout{3, 2, 2, 1}, comm::RankLayout{2, 4, 4, 1}})
      expect_parity({&family, layout, kDispatchers[cell % 3], policy(cell)}), ++cell;
}

// Some ranks have no token in the modules of prediction; their experts get those of others.
TEST(Some, RanksWithoutTokensInAModuleTakePart) {
  for (const char* dispatcher : kDispatchers)
    for (const comm::RankLayout& layout :
         {comm::RankLayout{1, 2, 2, 1}, comm::RankLayout{2, 2, 4, 1}, comm::RankLayout{1, 8, 4, 2}})
      for (size_t row : {0, 3, 5})
        expect_parity({.family = &families()[2],
                       .layout = layout,
                       .dispatcher = dispatcher,
                       .policy = policy(row),
                       .short_half = true});
}

// Replicas, of which one has come to hold a NaN: no rank takes the step.
TEST(Some, ANaNOnOneRankSkipsTheStepOnAll) {
  const RunSpec run{.family = &families()[0], .layout = {4, 1, 2, 2}};
  comm::run_thread_ranks(4, [&](comm::CommFactory& factory) {
    Rank rank(run, factory);
    EXPECT_FALSE(rank.step(run).skipped);
    if (factory.rank() == 2) rank.decoder.final_norm->data()[0].fill_(NAN);
    std::vector<at::Tensor> before;
    for (const auto& s : rank.units.shards()) before.push_back(s.weights.clone());
    EXPECT_TRUE(rank.step(run).skipped);
    if (factory.rank() == 2) return;
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(parallel::testing::same_bits(rank.units.shards()[i].weights, before[i]));
  });
}

}  // namespace
}  // namespace conclave::ranks
