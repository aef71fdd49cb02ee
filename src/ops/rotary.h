// Rotary position embedding, the half-split form (element i pairs with i + head_dim/2). Source:
// arXiv 2104.09864; transformers.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

struct RotaryTable {
  at::Tensor cos, sin;  // [positions, head_dim / 2]; fp64 for fp64 runs, else fp32
};

// Angles position · theta^(−2i/head_dim) for positions 0 … positions−1. In fp32 with the very ATen
// calls of the reference, so that its roundings are shared; in fp64 nothing passes through a float.
RotaryTable rotary_table(int64_t positions, int64_t head_dim, double theta, at::ScalarType dtype);

// x [tokens, heads, head_dim] · positions [tokens] int64, each < rows of the table → same shape and
// dtype as x.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table);
// The transposed rotation of dy.
at::Tensor rotary_backward(const at::Tensor& dy, const at::Tensor& positions,
                           const RotaryTable& table);

}  // namespace conclave::ops
