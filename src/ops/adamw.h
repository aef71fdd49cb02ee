// AdamW over flat shards, and the norm of gradients. One pass over memory; results do not depend on
// the number of threads. On CUDA nothing waits for the device, squared_sum apart.
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
// as torch.optim.AdamW computes it. w [n] fp32 or fp64 with m, v, g [n] of the same type; or w bf16
// with m, v both bf16 or both fp32 and g bf16 or fp32: computed in fp32, rounded to nearest.
// Nothing is updated if grad_scale is not finite.
void adamw_(at::Tensor w, at::Tensor m, at::Tensor v, const at::Tensor& g,
            std::span<const int64_t> decay_ranges, const AdamWStep& s);

// The same with bf16 weights and an exact fp32 master kept as two halves: bits(master) = (bits(hi)
// << 16) + lo, hi the bf16 weight (rounded half up), lo int16. hi [n] bf16 · lo [n] int16 · m, v
// [n] both fp32 or both bf16 · g [n] fp32 or bf16.
void adamw_split_(at::Tensor hi, at::Tensor lo, at::Tensor m, at::Tensor v, const at::Tensor& g,
                  std::span<const int64_t> decay_ranges, const AdamWStep& s);
// hi, lo ← master [n] fp32, and back. Exact for every finite value that rounds to a finite bf16.
void split_master(const at::Tensor& master, at::Tensor hi, at::Tensor lo);
at::Tensor join_master(const at::Tensor& hi, const at::Tensor& lo);

// A step whose learning rate, clipping factor and count are on the device, so that the host need
// not know them (and a captured step can be run again with others): adamw_scalars makes what the
// update needs of them, once for all shards.
struct AdamWRule {
  double beta1, beta2, eps, weight_decay;
};
// lr, grad_scale [1] fp64 · steps [1] int64: updates so far, raised by one unless grad_scale is not
// finite, which leaves the update out → [8] fp64 on their device.
at::Tensor adamw_scalars(const AdamWRule& rule, const at::Tensor& lr, const at::Tensor& grad_scale,
                         at::Tensor steps);
void adamw_(at::Tensor w, at::Tensor m, at::Tensor v, const at::Tensor& g,
            std::span<const int64_t> decay_ranges, const at::Tensor& scalars);
void adamw_split_(at::Tensor hi, at::Tensor lo, at::Tensor m, at::Tensor v, const at::Tensor& g,
                  std::span<const int64_t> decay_ranges, const at::Tensor& scalars);

// Σ x² in fp64 over fixed blocks in fixed order. inf or NaN in x give inf or NaN.
double squared_sum(const at::Tensor& x);
// sum [1] fp64, on x's device, += Σ x².
void add_squared_sum_(at::Tensor sum, const at::Tensor& x);
// min(1, clip_norm / (norm + 1e-6)) with norm = √squared_sum, as torch.nn.utils.clip_grad_norm_
// scales; 1 for clip_norm ≤ 0; NaN if the norm, or loss where it is defined, is not finite.
// squared_sum, loss [1] fp64 → [1] fp64 on their device.
at::Tensor clip_scale(const at::Tensor& squared_sum, const at::Tensor& loss, double clip_norm);

}  // namespace conclave::ops
