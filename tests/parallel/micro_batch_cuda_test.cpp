// Whole models on a GPU against the CPU: in fp32 the same within 1e-5 of what is largest, in bf16
// as close to fp64 as the CPU's bf16 is.
#include <ATen/ops/arange.h>
#include <ATen/ops/sort.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "parallel/families_on_gpu.h"

namespace conclave::parallel {
namespace {

using namespace testing;

constexpr double kMtpWeight = 0.3;

// All on the CPU in fp64.
struct Results {
  at::Tensor logits;
  std::vector<at::Tensor> ids;  // by layer, undefined for a dense one
  std::vector<std::pair<std::string, at::Tensor>> gradients;
  double loss = 0, mtp_loss = 0, aux = 0;
};

at::Tensor exact(const at::Tensor& t) { return t.cpu().to(at::kDouble); }

// `replay`: the experts that are chosen, by layer; then without multi-token prediction, whose
// modules route by themselves.
Results run(OnDevice& m, const std::vector<at::Tensor>* replay = nullptr) {
  Results out;
  Batch batch = to_device(shipped_rows(4), m.units.device());
  std::vector<at::Tensor> given;
  if (replay) {
    for (const at::Tensor& ids : *replay) given.push_back(to_device(ids, m.units.device()));
    batch.rows.replay = &given;
  }
  batch.rows.aux_seed = 0.25, batch.rows.token_seed = 1.0 / 256;
  Batch unlabelled = batch;
  unlabelled.labels = at::Tensor();
  MicroBatch inference(m.decoder, m.units, m.dispatcher, unlabelled, {.training = false});
  inference.forward();
  out.logits = exact(inference.logits(at::arange(batch.ids.numel(), at::kLong)));
  for (size_t i = 0; i < m.decoder.layers.size(); ++i)
    out.ids.push_back(m.decoder.layers[i].block->has_experts()
                          ? inference.expert_ids(static_cast<int>(i)).cpu()
                          : at::Tensor());
  MicroBatch micro(m.decoder, m.units, m.dispatcher, batch,
                   {.loss_seed = 1.0 / 248, .mtp_weight = replay ? 0 : kMtpWeight});
  micro.forward();
  micro.backward();
  out.loss = number(micro.loss_sum()), out.mtp_loss = number(micro.mtp_loss_sum());
  out.aux = number(micro.aux());
  for (const auto& unit : m.decoder.units)
    for (const auto& w : unit->weights())
      if (unit->trained()) out.gradients.emplace_back(w->name(), exact(w->grad()));
  return out;
}

// The largest |a − b| as a part of the largest |b|.
double apart(const at::Tensor& a, const at::Tensor& b) {
  return largest(a.sub(b)) / std::max(largest(b), 1e-300);
}

class OnGpu : public ::testing::TestWithParam<std::string> {};

TEST_P(OnGpu, Fp32EqualsTheCpu) {
  CONCLAVE_NEEDS_GPU();
  const nlohmann::json config = shipped_config(GetParam());
  OnDevice cpu(config, at::kFloat, at::kCPU), gpu(config, at::kFloat, at::kCUDA, &cpu);
  const Results want = run(cpu), got = run(gpu);
  const double logits = apart(got.logits, want.logits);
  EXPECT_LE(logits, 1e-5);
  EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss);
  EXPECT_NEAR(got.mtp_loss, want.mtp_loss, 1e-5 * want.mtp_loss);
  EXPECT_NEAR(got.aux, want.aux, 1e-5 * want.aux);
  for (size_t i = 0; i < want.ids.size(); ++i)
    if (want.ids[i].defined()) {
      EXPECT_TRUE(std::get<0>(at::sort(got.ids[i], 1)).equal(std::get<0>(at::sort(want.ids[i], 1))))
          << "layer " << i;
    }
  double worst = 0;
  for (size_t i = 0; i < want.gradients.size(); ++i) {
    const double d = apart(got.gradients[i].second, want.gradients[i].second);
    worst = std::max(worst, d);
    EXPECT_LE(d, 1e-5) << want.gradients[i].first << ", largest "
                       << largest(want.gradients[i].second);
  }
  std::printf("%s fp32: logits %.2g, loss %.2g, gradients %.2g\n", GetParam().c_str(), logits,
              std::abs(got.loss - want.loss) / want.loss, worst);
}

TEST_P(OnGpu, Bf16IsAsCloseToFp64AsTheCpuIs) {
  CONCLAVE_NEEDS_GPU();
  const nlohmann::json config = shipped_config(GetParam());
  OnDevice cpu(config, at::kBFloat16, at::kCPU), gpu(config, at::kBFloat16, at::kCUDA, &cpu),
      wide(config, at::kDouble, at::kCPU, &cpu);
  const std::vector<at::Tensor> ids = run(wide).ids;
  const Results want = run(wide, &ids), theirs = run(cpu, &ids), got = run(gpu, &ids);
  double worst = 0;
  auto expect = [&](const std::string& name, const at::Tensor& g, const at::Tensor& t,
                    const at::Tensor& w) {
    const double mine = largest(g.sub(w)), allowed = 3 * largest(t.sub(w)) + 0x1p-8 * largest(w);
    worst = std::max(worst, mine / allowed);
    EXPECT_LE(mine, allowed) << name << ", the CPU's error " << largest(t.sub(w)) << ", largest "
                             << largest(w);
  };
  expect("logits", got.logits, theirs.logits, want.logits);
  for (size_t i = 0; i < want.gradients.size(); ++i)
    expect(want.gradients[i].first, got.gradients[i].second, theirs.gradients[i].second,
           want.gradients[i].second);
  std::printf("%s bf16: the largest error is %.2f of what is allowed\n", GetParam().c_str(), worst);
}

INSTANTIATE_TEST_SUITE_P(Families, OnGpu, ::testing::ValuesIn(shipped_families()), gpu_test_name);

}  // namespace
}  // namespace conclave::parallel
