// AdamW over flat shards. With bf16 weights the fp32 master is exact, kept as the bf16 weight and
// 16 low bits (ops/adamw.h).
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "base/config.h"

namespace conclave::optim {

struct AdamWConfig {
  double lr = 3e-4, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  void fields(auto& f) {
    f("lr", lr, "peak learning rate", positive);
    f("betas", beta1, beta2, "decay of the two moments", in(0, 1));
    f("eps", eps, "added to the root of the second moment", positive);
    f("weight_decay", weight_decay, "decoupled; on matrices only", not_negative);
  }
};

// One rank's range of a unit: what the optimizer updates in place.
struct FlatShard {
  at::Tensor weights;                 // [n] fp32, fp64 or bf16
  at::Tensor grad;                    // [n] fp32 (fp32 and bf16 weights), bf16 (bf16) or fp64
  std::vector<int64_t> decay_ranges;  // [begin, end) pairs, ascending: where weight decay applies
  bool trained = true;                // false: buffers, which have no gradient and no moments
};

// What is kept for bf16 weights.
struct AdamWStates {
  bool master = true;         // the low 16 bits of an exact fp32 master
  bool bf16_moments = false;  // instead of the gradient's type
};

class AdamW {
 public:
  // Allocates zero moments (and zero low bits for bf16 weights) beside the weights; undefined ones
  // of what is not trained. The shards' tensors, all on one device, are shared, not copied.
  AdamW(const AdamWConfig& config, std::vector<FlatShard> shards, const AdamWStates& states = {});

  // One update with gradients times grad_scale. Nothing changes, the count of steps either, where
  // that is not finite. lr, grad_scale [1] fp64 on the shards' device. Does not wait for the
  // device.
  void step(const at::Tensor& lr, const at::Tensor& grad_scale);
  void step(double lr, double grad_scale = 1);

  size_t size() const { return shards_.size(); }
  const at::Tensor& m(size_t shard) const { return states_.at(shard).m; }
  const at::Tensor& v(size_t shard) const { return states_.at(shard).v; }
  const at::Tensor& lo(size_t shard) const {
    return states_.at(shard).lo;
  }  // int16; undefined unless weights are bf16 with a master
  // Sets bf16 weights and low bits from an fp32 master [n]; its rounding, half up, replaces the
  // weights.
  void set_master(size_t shard, const at::Tensor& master);

  // Updates so far, for the bias correction; reading them waits for the device.
  int64_t steps() const;
  void set_steps(int64_t steps);

 private:
  struct State {
    at::Tensor m, v, lo;
  };
  AdamWConfig config_;
  std::vector<FlatShard> shards_;
  std::vector<State> states_;
  at::Tensor steps_;  // [1] int64 on the shards' device
};

}  // namespace conclave::optim
