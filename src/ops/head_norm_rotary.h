// RMSNorm of each head, then the half-split rotation: what queries and keys go through (Qwen3). On
// CUDA one pass over memory.
#pragma once
#include "ops/norm.h"
#include "ops/rotary.h"

namespace conclave::ops {

struct HeadNormRotary {
  at::Tensor y;     // [tokens, heads, head_dim], dtype of x
  at::Tensor rstd;  // [tokens · heads], fp32 or wider; the backward needs it
};
// x [tokens, heads, head_dim] · weight [head_dim] · positions [tokens] int64, each < rows of the
// table. Rounded where rms_norm and rotary would round. head_dim at most 512 on CUDA.
HeadNormRotary head_norm_rotary(const at::Tensor& x, const at::Tensor& weight, double eps,
                                const at::Tensor& positions, const RotaryTable& table);
// y again, from what the backward keeps.
at::Tensor head_norm_rotary_from(const at::Tensor& x, const at::Tensor& rstd,
                                 const at::Tensor& weight, const at::Tensor& positions,
                                 const RotaryTable& table);
// dx [tokens, heads, head_dim], dweight [head_dim].
RmsNormGrad head_norm_rotary_backward(const at::Tensor& dy, const at::Tensor& x,
                                      const at::Tensor& rstd, const at::Tensor& weight,
                                      const at::Tensor& positions, const RotaryTable& table);

}  // namespace conclave::ops
