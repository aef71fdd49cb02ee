// What goes wrong elsewhere with models of DeepSeek-V3's kind, seen at the level of the whole
// model.
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <set>

#include "parallel/tiny.h"

namespace conclave::parallel {
namespace {
using namespace testing;

TEST(DeepseekV3, TrapMaskedGroupsAreNeverChosenThoughAllBiasedScoresAreNegative) {
  auto config = tiny_deepseek();
  config.update({{"n_group", 3}, {"topk_group", 1}, {"num_experts_per_tok", 2}});
  Tiny tiny({.training = false}, config);
  for (int layer : {1, 2})  // the second one is the module's
    tiny.decoder.layer(static_cast<size_t>(layer)).block->correction_bias()->data().sub_(5);
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, packed_rows(0, 4),
                   {.training = false});
  micro.forward();
  const at::Tensor& ids = micro.expert_ids(1);  // [tokens, 2]: both experts of one group of two
  std::set<int64_t> groups;
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < ids.size(0); ++t) {
    EXPECT_EQ(id[2 * t] / 2, id[2 * t + 1] / 2) << "token " << t;
    groups.insert(id[2 * t] / 2);
  }
  EXPECT_GT(groups.size(), 1u);
}

double loss_with_latents_scaled(const nlohmann::json& config, double factor) {
  Tiny tiny({.training = false}, config);
  for (const auto& unit : tiny.decoder.units)
    for (const auto& w : unit->weights()) {
      if (w->name().ends_with("q_a_proj.weight")) w->data().mul_(factor);
      if (w->name().ends_with("kv_a_proj_with_mqa.weight"))
        w->data().narrow(0, 0, config["kv_lora_rank"]).mul_(factor);
    }
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, packed_rows(0, 4),
                   {.training = false});
  micro.forward();
  return number(micro.loss_sum());
}

TEST(DeepseekV3, TrapLatentNormsKeepTheirEpsWhateverRmsNormEpsSays) {
  // Where eps is small beside a latent's mean square, its norm takes any scale away.
  auto config = tiny_deepseek();
  config["rms_norm_eps"] = 0.5;
  const double loss = loss_with_latents_scaled(config, 1);
  EXPECT_NEAR(loss_with_latents_scaled(config, 100), loss, 1e-4 * loss);
}

}  // namespace
}  // namespace conclave::parallel
