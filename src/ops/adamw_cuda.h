// ops/adamw.h on CUDA: operands were checked by their callers. Private to ops/.
#pragma once
#include "ops/adamw_scalars.h"

namespace conclave::ops::cuda {

// lo undefined: weights without a master. on_device undefined: `scalars` are used.
void adamw_(const at::Tensor& w, const at::Tensor& lo, const at::Tensor& m, const at::Tensor& v,
            const at::Tensor& g, std::span<const int64_t> decay_ranges, const AdamWScalars& scalars,
            const at::Tensor& on_device);
at::Tensor adamw_scalars(const AdamWRule& rule, const at::Tensor& lr, const at::Tensor& grad_scale,
                         const at::Tensor& steps);
void split_master(const at::Tensor& master, const at::Tensor& hi, const at::Tensor& lo);
at::Tensor join_master(const at::Tensor& hi, const at::Tensor& lo);
void add_squared_sum_(const at::Tensor& sum, const at::Tensor& x);
at::Tensor clip_scale(const at::Tensor& squared_sum, const at::Tensor& loss, double clip_norm);

}  // namespace conclave::ops::cuda
