#include "plan/recompute.h"

#include <gtest/gtest.h>

#include "plan/cases.h"

namespace conclave::plan {
namespace {

using Classes = std::set<std::string>;

TEST(Recompute, MakesAgainWhatCostsTheLeast) {
  ModelShape m = qwen3_30b_a3b();
  m.expert_ranks = 8;
  TrainingRun run{.precision = Precision::bf16,
                  .grad_bytes = 2,
                  .tokens = 4096,
                  .on_gpu = true,
                  .received = 5.34};
  const auto total = [&](Classes again) {
    TrainingRun r = run;
    r.recompute = std::move(again);
    return forecast_memory(m, r).total();
  };
  const auto chosen = [&](int64_t limit) {
    TrainingRun r = run;
    EXPECT_TRUE(fit_recompute(m, r, limit));
    EXPECT_LE(forecast_memory(m, r).total(), limit);
    return r.recompute;
  };
  EXPECT_EQ(chosen(2 * total({})), Classes());
  EXPECT_EQ(chosen(total({}) - 1), Classes{"norm"});
  // Rotary alone would be cheaper, but it does not free as much.
  EXPECT_EQ(chosen(total({"swiglu"})), Classes{"swiglu"});
  run.recompute = {"qkv"};  // what is given stays
  EXPECT_EQ(chosen(total({"qkv"}) - 1), (Classes{"norm", "qkv"}));
  EXPECT_FALSE(fit_recompute(m, run, 0));
  EXPECT_EQ(run.recompute.size(), cheap_classes().size() + 1);
}

}  // namespace
}  // namespace conclave::plan
