// ops/swiglu.h on CUDA: operands were checked by their callers. Private to ops/.
#pragma once
#include "ops/swiglu.h"

namespace conclave::ops::cuda {

at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& weights, Activation activation);
SwigluGrad swiglu_backward(const at::Tensor& dy, const at::Tensor& gate_up,
                           const at::Tensor& weights, Activation activation);

}  // namespace conclave::ops::cuda
