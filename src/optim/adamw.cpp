#include "optim/adamw.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include "ops/adamw.h"

namespace conclave::optim {

AdamW::AdamW(const AdamWConfig& config, std::vector<FlatShard> shards, const AdamWStates& states)
    : config_(config), shards_(std::move(shards)) {
  for (const auto& s : shards_) {
    if (!s.trained) {
      states_.emplace_back();
      continue;
    }
    TORCH_CHECK(s.grad.defined() && s.grad.sizes() == s.weights.sizes(),
                "AdamW: expected a gradient of the weights' size ", s.weights.sizes());
    const bool bf16 = s.weights.scalar_type() == at::kBFloat16;
    const auto wide = s.weights.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto moments = s.grad.options().dtype(states.bf16_moments ? at::kBFloat16 : wide);
    State state{at::zeros_like(s.grad, moments), at::zeros_like(s.grad, moments), {}};
    if (bf16 && states.master)
      state.lo = at::zeros({s.weights.numel()}, s.weights.options().dtype(at::kShort));
    states_.push_back(std::move(state));
  }
  const at::Device device = shards_.empty() ? at::kCPU : shards_.front().weights.device();
  steps_ = at::zeros({1}, at::TensorOptions().dtype(at::kLong).device(device));
}

void AdamW::step(double lr, double grad_scale) {
  const auto scalar = steps_.options().dtype(at::kDouble);
  step(at::full({1}, lr, scalar), at::full({1}, grad_scale, scalar));
}

void AdamW::step(const at::Tensor& lr, const at::Tensor& grad_scale) {
  const at::Tensor scalars = ops::adamw_scalars(
      {config_.beta1, config_.beta2, config_.eps, config_.weight_decay}, lr, grad_scale, steps_);
  for (size_t i = 0; i < shards_.size(); ++i) {
    auto& [weights, grad, decay, trained] = shards_[i];
    if (!trained) continue;
    auto& [m, v, lo] = states_[i];
    if (lo.defined())
      ops::adamw_split_(weights, lo, m, v, grad, decay, scalars);
    else
      ops::adamw_(weights, m, v, grad, decay, scalars);
  }
}

int64_t AdamW::steps() const { return steps_.item<int64_t>(); }
void AdamW::set_steps(int64_t steps) { steps_.fill_(steps); }

void AdamW::set_master(size_t shard, const at::Tensor& master) {
  TORCH_CHECK(lo(shard).defined(), "AdamW: expected bf16 weights with a master, got ",
              shards_.at(shard).weights.scalar_type());
  ops::split_master(master, shards_.at(shard).weights, states_.at(shard).lo);
}

}  // namespace conclave::optim
