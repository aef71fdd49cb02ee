// Tiny models of each family with every loss seeded, as tests of whole micro-batches run them.
#pragma once
#include "parallel/micro_batch.h"
#include "parallel/tiny.h"

namespace conclave::parallel::testing {

inline RunOptions options(std::set<std::string> recompute = {}, bool defer = false) {
  return {.recompute = std::move(recompute),
          .defer_weight_gradients = defer,
          .loss_seed = 1.0 / 17,
          .mtp_weight = 0.3};
}

inline Batch seeded(Batch b) {
  b.rows.aux_seed = 0.25;
  b.rows.token_seed = 1.0 / 32;
  return b;
}
inline Batch batch(int first, int last) { return seeded(packed_rows(first, last)); }

// A shared expert and multi-token prediction add segments.
struct TinyFamily {
  const char* name;
  nlohmann::json (*config)();
};
inline constexpr TinyFamily kTinyFamilies[] = {
    {"Qwen3Moe", tiny_config}, {"GptOss", tiny_gpt_oss}, {"DeepseekV3", tiny_deepseek}};
inline std::string name_of(const ::testing::TestParamInfo<TinyFamily>& info) {
  return info.param.name;
}

}  // namespace conclave::parallel::testing
