// The seam of the experts' first half: rows to their experts, the first product, the gated
// activation times the routing weight.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/swiglu.h"

namespace conclave::ops {

enum class GroupedKernel {
  automatic,  // fused where it can be, else aten
  aten,       // a gather, grouped_linear, grouped_bias_, swiglu: everywhere
  fused,      // one kernel, kernels/grouped_gemm_swiglu.h: Hopper, bf16
};

struct GroupedUp {
  at::Tensor gate_up;  // [rows, 2 · ffn]: the product (and bias), for the backward
  at::Tensor act;      // [rows, ffn]: activation(gate_up) · weight
};

// gate_up[r] = x[index[r]] · w[e]ᵀ (+ bias[e]), act[r] = activation(gate_up[r]) · weights[r], for
// the rows r of expert e. x [tokens, hidden] · index [rows] int32, or undefined: row r is row r of
// x · w [experts, 2 · ffn, hidden] · bias [experts, 2 · ffn] or undefined · weights [rows] of fp32
// or wider, or undefined (1) · offsets [experts + 1]: int64 on the CPU from 0 to rows; on CUDA
// int32 on the device, no host sync, and rows from offsets[experts] on are not written. `automatic`
// is `fused` for bf16 with hidden a multiple of 64 from 640 on, ffn a multiple of 64, and a bias
// only with clamped_swiglu. `fused` throws where that does not hold.
GroupedUp grouped_up(const at::Tensor& x, const at::Tensor& index, const at::Tensor& w,
                     const at::Tensor& bias, const at::Tensor& weights, const at::Tensor& offsets,
                     Activation activation, GroupedKernel kernel = GroupedKernel::automatic);

}  // namespace conclave::ops
