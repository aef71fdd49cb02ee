// ops/matmul.h and ops/grouped_bias.h on CUDA: operands were checked by their callers. Private to
// ops/.
//
// Dense products are cuBLAS's, with fp32 accumulation. Grouped ones of bf16 are kernels of ours on
// Hopper (kernels/grouped_gemm.h, grouped_weight.h) where these do the widths, else
// at::_grouped_mm: both read the offsets on the device, no host sync. For the latter widths that
// are no multiple of 8 are padded (TMA wants 16 bytes), and a weight gradient is made in bf16, in
// pieces of at most 256 MiB, and added to the one that is kept. In fp32 and fp64, which are there
// for tests, each expert is a product of its own and the offsets come to the host: a sync a call.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops::cuda {

at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias);
void linear_backward_input_(at::Tensor dx, const at::Tensor& dy, const at::Tensor& w);
at::Tensor linear_backward_input(const at::Tensor& dy, const at::Tensor& w);
// dw of the operands' type or of fp32, here and below.
void linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x);
void column_sum_(at::Tensor sum, const at::Tensor& dy);

// bf16 x and w.
at::Tensor wide_linear(const at::Tensor& x, const at::Tensor& w);
at::Tensor wide_linear_backward_input(const at::Tensor& dy, const at::Tensor& w);
void wide_linear_backward_input_(at::Tensor dx, const at::Tensor& dy, const at::Tensor& w);
void wide_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x);

// offsets [experts + 1] int32 on the device. Results from rows offsets[experts] on are not written.
at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& offsets,
                          const at::Tensor& bias, const at::Tensor& weights);
// The same without our kernel.
at::Tensor aten_grouped_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& offsets,
                               const at::Tensor& bias, const at::Tensor& weights);
at::Tensor grouped_linear_backward_input(const at::Tensor& dy, const at::Tensor& w,
                                         const at::Tensor& offsets);
void grouped_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& offsets);

void grouped_bias_(at::Tensor y, const at::Tensor& bias, const at::Tensor& offsets,
                   const at::Tensor& weights);
at::Tensor grouped_bias_backward_weights(const at::Tensor& dy, const at::Tensor& bias,
                                         const at::Tensor& offsets);
void grouped_bias_backward_(at::Tensor dbias, const at::Tensor& dy, const at::Tensor& offsets,
                            const at::Tensor& weights);

}  // namespace conclave::ops::cuda
