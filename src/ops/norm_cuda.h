// ops/norm.h on CUDA: operands were checked by their callers. Private to ops/.
#pragma once
#include "ops/norm.h"

namespace conclave::ops::cuda {

// residual undefined: sum is too.
AddRmsNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                        double eps);
at::Tensor rms_norm_from(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight);
RmsNormGrad rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                              const at::Tensor& weight, const at::Tensor& dsum);

}  // namespace conclave::ops::cuda
