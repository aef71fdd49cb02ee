// Traps that other systems stepped into, seen in whole micro-batches; docs/traps.md lists them.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "parallel/tiny.h"

namespace conclave::parallel {
namespace {
using namespace testing;

// While it lives, fresh memory is not a number: ATen fills what empty() gives.
struct PoisonedMemory {
  PoisonedMemory() {
    at::globalContext().setDeterministicFillUninitializedMemory(true);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  }
  ~PoisonedMemory() { at::globalContext().setDeterministicAlgorithms(false, false); }
};

std::vector<at::Tensor> loss_and_gradients(const nlohmann::json& config, const char* router) {
  Tiny tiny({}, config);
  for (const auto& unit : tiny.decoder.units)  // the last experts get no token
    for (const auto& w : unit->weights())
      if (w->name().ends_with(router)) w->data().narrow(0, w->shape()[0] - 2, 2).sub_(9);
  MicroBatch micro(
      tiny.decoder, tiny.units, tiny.dispatcher, packed_rows(0, 4),
      {.recompute = {"gate_up", "swiglu", "dispatch"}, .loss_seed = 1.0 / 17, .mtp_weight = 0.3});
  micro.forward();
  micro.backward();
  const auto last = static_cast<int>(tiny.decoder.layers.size()) - 1;
  EXPECT_EQ(micro.loads(last).slice(0, -2).sum().item().toLong(), 0);
  auto out = tiny.gradients();
  out.push_back(micro.loss_sum().clone());
  return out;
}

// Trap 6: rows that nothing wrote, beyond the last expert's end or of experts without a token, are
// read. Memory that is not a number changes no bit of a loss or gradient.
TEST(Experts, Trap6UninitialisedRowsBeyondTheLastExpert) {
  struct Family {
    nlohmann::json config;
    const char* router;  // what decides for an expert alone
  };
  for (const auto& [config, router] :
       {Family{tiny_gpt_oss(), "router.bias"}, {tiny_deepseek(), "gate.e_score_correction_bias"}}) {
    SCOPED_TRACE(config["architectures"].dump());
    const auto want = loss_and_gradients(config, router);
    const PoisonedMemory poisoned;
    ASSERT_TRUE(at::empty({3}, at::kDouble).isnan().all().item().toBool());
    const auto got = loss_and_gradients(config, router);
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(want[i].isfinite().all().item().toBool()) << "unit " << i;
      EXPECT_TRUE(same_bits(got[i], want[i])) << "unit " << i;
    }
  }
}

}  // namespace
}  // namespace conclave::parallel
