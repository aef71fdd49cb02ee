// ops/cross_entropy.h on CUDA: operands were checked by their callers; a label outside of the
// vocabulary stops the device. Private to ops/.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops::cuda {

// loss_sum [1] fp64 += the losses; dx where dw is defined. dw of x's type, or of fp32 or wider.
at::Tensor linear_cross_entropy_(at::Tensor loss_sum, const at::Tensor& x, const at::Tensor& w,
                                 const at::Tensor& labels, double seed, const at::Tensor& dw,
                                 int64_t max_logits);

}  // namespace conclave::ops::cuda
