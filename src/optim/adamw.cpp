#include "optim/adamw.h"

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
    const auto moments =
        s.grad.options().dtype(states.bf16_moments ? at::kBFloat16 : s.grad.scalar_type());
    State state{at::zeros_like(s.grad, moments), at::zeros_like(s.grad, moments), {}};
    if (bf16 && states.master) state.lo = at::zeros({s.weights.numel()}, at::kShort);
    states_.push_back(std::move(state));
  }
}

void AdamW::step(double lr, double grad_scale) {
  steps_ += 1;
  const ops::AdamWStep s{.lr = lr,
                         .beta1 = config_.beta1,
                         .beta2 = config_.beta2,
                         .eps = config_.eps,
                         .weight_decay = config_.weight_decay,
                         .step = steps_,
                         .grad_scale = grad_scale};
  for (size_t i = 0; i < shards_.size(); ++i) {
    auto& [weights, grad, decay, trained] = shards_[i];
    if (!trained) continue;
    auto& [m, v, lo] = states_[i];
    if (lo.defined())
      ops::adamw_split_(weights, lo, m, v, grad, decay, s);
    else
      ops::adamw_(weights, m, v, grad, decay, s);
  }
}

void AdamW::set_master(size_t shard, const at::Tensor& master) {
  TORCH_CHECK(lo(shard).defined(), "AdamW: expected bf16 weights with a master, got ",
              shards_.at(shard).weights.scalar_type());
  ops::split_master(master, shards_.at(shard).weights, states_.at(shard).lo);
}

}  // namespace conclave::optim
