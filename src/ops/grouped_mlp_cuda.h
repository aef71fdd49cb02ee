// The experts' products on Hopper by kernels of ours, kernels/grouped_gemm.h and grouped_weight.h.
// Operands were checked. Nothing is returned, or false, where the kernel does not do this. Private
// to ops/.
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
// dy · w[e].
std::optional<at::Tensor> fused_grouped_linear_backward_input(const at::Tensor& dy,
                                                              const at::Tensor& w,
                                                              const at::Tensor& offsets);
// dw[e] += dyᵀ · x over the expert's rows.
bool fused_grouped_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x,
                                           const at::Tensor& offsets);

}  // namespace conclave::ops::cuda
