// A bias an expert on rows that are sorted by experts, times an optional weight a row.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// y [rows, out] += weights[r] · bias[e] for the rows offsets[e] … offsets[e+1) of expert e. bias
// [experts, out], dtype of y · offsets [experts + 1] int64 on the CPU, as in ops/matmul.h · weights
// [rows] of fp32 or wider, or undefined (1). Computed in fp32 or wider, rounded once.
void grouped_bias_(at::Tensor y, const at::Tensor& bias, const at::Tensor& offsets,
                   const at::Tensor& weights);

// The gradient of the weights: Σ over out of dy[r] · bias[e], [rows] of fp32 or wider.
at::Tensor grouped_bias_backward_weights(const at::Tensor& dy, const at::Tensor& bias,
                                         const at::Tensor& offsets);

// dbias [experts, out] += Σ over the expert's rows of weights[r] · dy[r], in fp32 or wider and in
// fixed order.
void grouped_bias_backward_(at::Tensor dbias, const at::Tensor& dy, const at::Tensor& offsets,
                            const at::Tensor& weights);

}  // namespace conclave::ops
