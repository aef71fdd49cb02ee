#include "plan/work.h"

#include <gtest/gtest.h>

#include "plan/cases.h"

namespace conclave::plan {
namespace {

TEST(Work, ProductsAreTheModelsFlops) {
  ModelShape m = qwen3_30b_a3b();
  m.expert_ranks = 8;
  const TrainingRun run{.precision = Precision::bf16, .tokens = 8192, .received = 5.34};
  const auto parts = work_by_part(m, run, 4096, 16);
  double products = 0;
  for (const auto& [name, work] : parts)
    if (name != "router") products += work.products + work.scores;
  const double expected = static_cast<double>(flops_per_token(m, 4096).total()) * 4096 * 16;
  EXPECT_NEAR(products, expected, 1e-6 * expected);
}

TEST(Work, BytesByHand) {
  const ModelShape m = tiny();  // hidden 24, a dense layer and two with experts
  const TrainingRun run{.precision = Precision::bf16,
                        .master = false,
                        .moment_bytes = 2,
                        .grad_bytes = 2,
                        .tokens = 8,
                        .recompute = {"swiglu"}};
  const auto parts = work_by_part(m, run, 8, 1);
  const LayerShape& l = m.layers[1];
  const auto rows = static_cast<double>(2 * 8 * l.top_k);
  EXPECT_EQ(parts.at("activation").bytes, rows * static_cast<double>(l.ffn) * 8 * 2);
  EXPECT_EQ(parts.at("combine").bytes, (2 * 8 + rows) * 24 * 2 * 2);
  EXPECT_EQ(parts.at("optimizer").bytes, static_cast<double>(parameters(m).total) * 14);
  EXPECT_FALSE(parts.contains("combine, stand-in"));
}

}  // namespace
}  // namespace conclave::plan
