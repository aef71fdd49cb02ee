// RMSNorm. Source: arXiv 1910.07467.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

struct RmsNorm {
  at::Tensor y;     // [tokens, hidden], dtype of x
  at::Tensor rstd;  // [tokens], fp32 or wider; the backward needs it
};

// y = x · rstd · weight with rstd = 1/√(mean over hidden of x² + eps), statistics in fp32 or wider;
// x · rstd is rounded to x's dtype before the product with weight, as the references do. x [tokens,
// hidden] contiguous (per-head norm: tokens · heads rows of head_dim) · weight [hidden] · eps > 0.
// Any tokens, also 0.
RmsNorm rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
// y again, from what the backward keeps.
at::Tensor rms_norm_from(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight);

struct AddRmsNorm {
  at::Tensor sum;   // x + residual, rounded to their dtype
  at::Tensor y;     // of the sum
  at::Tensor rstd;  // of the sum
};
// The norm of x + residual and that sum, in one pass.
AddRmsNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                        double eps);

struct RmsNormGrad {
  at::Tensor dx;       // [tokens, hidden], dtype of x
  at::Tensor dweight;  // [hidden], fp32 or wider; summed over tokens in fixed order
};
// With dsum [tokens, hidden] defined it is added to dx before that is rounded: what reaches the sum
// of add_rms_norm (here x) on its other way.
RmsNormGrad rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                              const at::Tensor& weight, const at::Tensor& dsum = {});

}  // namespace conclave::ops
