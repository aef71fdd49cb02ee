// With weights gathered into slots and rows sent on lanes beside the compute stream, random delays
// on each stream and slots filled with NaN when they are given back, training steps have the bits
// that they have without.
#include <gtest/gtest.h>

#include "parallel/families_on_gpu.h"
#include "parallel/together.h"

namespace conclave::parallel {
namespace {

using namespace testing;

struct How {
  bool release = false, lanes = false, together = false;
  int delays = 0;  // seed; 0: none
  std::set<std::string> recompute = {};
};

// Gradients of two micro-batches in bf16, one after the other or together, on the CPU.
std::vector<at::Tensor> gradients(const std::string& family, OnDevice& like, const How& how) {
  const std::string delays = std::to_string(how.delays) + ":400";
  if (how.delays) setenv("CONCLAVE_DELAYS", delays.c_str(), /*overwrite=*/1);
  const at::Device gpu(at::kCUDA, 0);
  OnDevice m(shipped_config(family), at::kBFloat16, gpu, &like,
             {.release_after_use = how.release, .overlap = how.lanes, .poison = true});
  if (how.lanes) m.dispatcher.lane().open("rows", gpu);
  unsetenv("CONCLAVE_DELAYS");
  RunOptions run{.recompute = how.recompute, .loss_seed = 1.0 / 248, .mtp_weight = 0.3};
  const auto batch = [&](int seed) { return to_device(shipped_rows(4, false, seed), gpu); };
  std::vector<at::Tensor> out;
  for (int step = 0; step < 2; ++step) {
    m.units.zero_grads();
    MicroBatch a(m.decoder, m.units, m.dispatcher, batch(step), run);
    run.last = true;
    MicroBatch b(m.decoder, m.units, m.dispatcher, batch(step + 2), run);
    if (how.together) {
      forward_together(a, b), backward_together(a, b);
    } else {
      a.forward(), a.backward(), b.forward(), b.backward();
    }
    m.units.reduce_grads();
    for (const auto& s : m.units.shards())
      if (s.unit->trained()) out.push_back(s.grad.cpu());
    m.units.weights_changed();
  }
  return out;
}

class Overlap : public ::testing::TestWithParam<std::string> {};

TEST_P(Overlap, GivesTheSameBits) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic deterministic;
  OnDevice like(shipped_config(GetParam()), at::kBFloat16, at::kCUDA);
  for (bool together : {false, true}) {
    const auto want = gradients(GetParam(), like, {.together = together});
    for (const How& how :
         {How{.lanes = true}, How{.release = true, .lanes = true},
          How{.release = true, .lanes = true, .delays = 1},
          How{.release = true, .lanes = true, .delays = 2},
          How{.release = true, .lanes = true, .delays = 3, .recompute = {"norm", "dispatch"}}}) {
      How this_way = how;
      this_way.together = together;
      const auto got = gradients(GetParam(), like, this_way);
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < want.size(); ++i)
        EXPECT_TRUE(same_bits(got[i], want[i]))
            << "gradient " << i << ", together " << together << ", released " << how.release
            << ", delays " << how.delays;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Overlap,
                         ::testing::Values("qwen3_moe_30b", "gptoss_20b", "deepseek_v3"),
                         gpu_test_name);

}  // namespace
}  // namespace conclave::parallel
