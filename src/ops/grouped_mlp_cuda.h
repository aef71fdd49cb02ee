// The fused kernel behind ops/grouped_mlp.h. Private to ops/.
#pragma once
#include <optional>

#include "ops/grouped_mlp.h"

namespace conclave::ops::cuda {

// Nothing where the kernel does not do this form (kernels/grouped_gemm_swiglu.h). Operands were
// checked.
std::optional<GroupedUp> fused_grouped_up(const at::Tensor& x, const at::Tensor& index,
                                          const at::Tensor& w, const at::Tensor& bias,
                                          const at::Tensor& weights, const at::Tensor& offsets,
                                          Activation activation);

}  // namespace conclave::ops::cuda
