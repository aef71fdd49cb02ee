// RMSNorm of each head, then the half-split rotation: what queries and keys go through (Qwen3). On
// CUDA one pass over memory, for both in one launch: keys are few.
#pragma once
#include "ops/norm.h"
#include "ops/rotary.h"

namespace conclave::ops {

// Something of a layer's queries and of its keys.
struct QueryKey {
  at::Tensor q, k;
};

struct HeadNormRotary {
  QueryKey y;     // as x
  QueryKey rstd;  // [tokens · heads], [tokens · kv_heads], fp32 or wider; the backward needs it
};
// x [tokens, heads, head_dim] and [tokens, kv_heads, head_dim] · weight [head_dim] each · positions
// [tokens] int64, each < rows of the table. Rounded where rms_norm and rotary would round. head_dim
// at most 512 on CUDA.
HeadNormRotary head_norm_rotary(const QueryKey& x, const QueryKey& weight, double eps,
                                const at::Tensor& positions, const RotaryTable& table);
// y of the queries or of the keys again, from what the backward keeps.
at::Tensor head_norm_rotary_from(const at::Tensor& x, const at::Tensor& rstd,
                                 const at::Tensor& weight, const at::Tensor& positions,
                                 const RotaryTable& table);

struct HeadNormRotaryGrad {
  QueryKey dx;       // as x
  QueryKey dweight;  // [head_dim], fp32 or wider; summed over tokens and heads in fixed order
};
HeadNormRotaryGrad head_norm_rotary_backward(const QueryKey& dy, const QueryKey& x,
                                             const QueryKey& rstd, const QueryKey& weight,
                                             const at::Tensor& positions, const RotaryTable& table);

}  // namespace conclave::ops
