// Gated activations times an optional weight a row. Source: arXiv 2002.05202 (SwiGLU);
// transformers, models/gpt_oss (the clamped one).
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

enum class Activation {
  swiglu,          // gate in the first half of a row, up in the second: silu(gate) · up
  clamped_swiglu,  // gate = column 2j, up = column 2j + 1; gate ≤ 7, −7 ≤ up ≤ 7 first, then
                   // gate · sigmoid(1.702 · gate) · (up + 1); no gradient beyond a clamp
};

// gate_up [rows, 2 · ffn] · weights [rows] of fp32 or wider, or undefined (1) → [rows, ffn] =
// activation · weight, dtype of gate_up; computed in fp32 or wider, rounded once.
at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& weights,
                  Activation activation = Activation::swiglu);

struct SwigluGrad {
  at::Tensor dgate_up;  // [rows, 2 · ffn], dtype of gate_up
  at::Tensor dweights;  // [rows], fp32 or wider; undefined if weights was
};
SwigluGrad swiglu_backward(const at::Tensor& dy, const at::Tensor& gate_up,
                           const at::Tensor& weights, Activation activation = Activation::swiglu);

}  // namespace conclave::ops
