// SwiGLU times an optional weight a row. Source: arXiv 2002.05202.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// gate_up [rows, 2 · ffn], gate in the first half of a row · weights [rows] of fp32 or wider, or
// undefined (1) → [rows, ffn] = silu(gate) · up · weight, dtype of gate_up; computed in fp32 or
// wider, rounded once.
at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& weights);

struct SwigluGrad {
  at::Tensor dgate_up;  // [rows, 2 · ffn], dtype of gate_up
  at::Tensor dweights;  // [rows], fp32 or wider; undefined if weights was
};
SwigluGrad swiglu_backward(const at::Tensor& dy, const at::Tensor& gate_up,
                           const at::Tensor& weights);

}  // namespace conclave::ops
