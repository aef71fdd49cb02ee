// The fused kernels of the experts' forward, kernels/grouped_gemm.h. Operands were checked. Nothing
// is returned where the kernel does not do this form. Private to ops/.
#pragma once
#include <optional>

#include "ops/grouped_mlp.h"

namespace conclave::ops::cuda {

std::optional<GroupedUp> fused_grouped_up(const at::Tensor& x, const at::Tensor& index,
                                          const at::Tensor& w, const at::Tensor& bias,
                                          const at::Tensor& weights, const at::Tensor& offsets,
                                          Activation activation);
// x · w[e]ᵀ (+ weights · bias[e]).
std::optional<at::Tensor> fused_grouped_linear(const at::Tensor& x, const at::Tensor& w,
                                               const at::Tensor& offsets, const at::Tensor& bias,
                                               const at::Tensor& weights);

}  // namespace conclave::ops::cuda
