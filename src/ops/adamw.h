// AdamW over flat shards, and the norm of gradients. One pass over memory; results do not depend on
// the number of threads.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>

namespace conclave::ops {

struct AdamWStep {
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;           // 1 for the first update: bias correction 1 − beta^step
  double grad_scale = 1;  // the clipping factor; gradients are multiplied with it
};
// Decoupled weight decay (arXiv 1711.05101) on the elements of `decay_ranges` ([begin, end) pairs
// into the shard, ascending).
//   m ← beta1·m + (1−beta1)·g;  v ← beta2·v + (1−beta2)·g²;  w ← w·(1 − lr·weight_decay) − lr · m̂ /
//   (√v̂ + eps)
// as torch.optim.AdamW computes it. w, m, v, g [n] of one type, fp32 or fp64; or w bf16, computed
// in fp32 and rounded to nearest, with m and v both bf16 or both fp32 and g fp32.
void adamw_(at::Tensor w, at::Tensor m, at::Tensor v, const at::Tensor& g,
            std::span<const int64_t> decay_ranges, const AdamWStep& s);

// The same with bf16 weights and an exact fp32 master kept as two halves: bits(master) = (bits(hi)
// << 16) + lo, hi the bf16 weight (rounded half up), lo int16. hi [n] bf16 · lo [n] int16 · m, v
// [n] both fp32 or both bf16 · g [n] fp32.
void adamw_split_(at::Tensor hi, at::Tensor lo, at::Tensor m, at::Tensor v, const at::Tensor& g,
                  std::span<const int64_t> decay_ranges, const AdamWStep& s);
// hi, lo ← master [n] fp32, and back. Exact for every finite value that rounds to a finite bf16.
void split_master(const at::Tensor& master, at::Tensor hi, at::Tensor lo);
at::Tensor join_master(const at::Tensor& hi, const at::Tensor& lo);

// Σ x² in fp64 over fixed blocks in fixed order. inf or NaN in x give inf or NaN.
double squared_sum(const at::Tensor& x);

}  // namespace conclave::ops
