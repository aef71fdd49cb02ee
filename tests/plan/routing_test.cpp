#include "plan/routing.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace conclave::plan {
namespace {

struct Published {
  RankRouting r;
  double balanced, uniform;
};

TEST(Routing, RanksPerTokenOfThePublishedLayouts) {
  for (const Published& p : {Published{{128, 8, 8}, 1, 5.34},
                             {{32, 4, 8}, 1, 3.44},
                             {{128, 4, 64}, 2, 3.95},
                             {{256, 8, 64}, 2, 7.68},
                             {{384, 8, 32}, 1.33, 7.24}}) {
    EXPECT_NEAR(ranks_per_token_balanced(p.r), p.balanced, 0.005);
    EXPECT_NEAR(ranks_per_token_uniform(p.r), p.uniform, 0.005);
  }
}

TEST(Routing, Borders) {
  EXPECT_EQ(ranks_per_token_uniform({8, 8, 4}), 4);  // all experts: all ranks
  EXPECT_EQ(ranks_per_token_uniform({8, 3, 1}), 1);
  EXPECT_EQ(ranks_per_token_balanced({8, 3, 1}), 1);
  EXPECT_THROW(ranks_per_token_uniform({8, 3, 3}), std::logic_error);
  EXPECT_THROW(ranks_per_token_balanced({8, 9, 1}), std::logic_error);
}

}  // namespace
}  // namespace conclave::plan
