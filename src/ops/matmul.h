// Matrix products on blocks that do not depend on the number of threads, so the bits do not either.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace conclave::ops {

// y [tokens, out] = x [tokens, in] · wᵀ (+ bias [out]), w [out, in]. fp32, fp64, or bf16 with fp32
// accumulation. Any tokens, also 0.
at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias = {});
// dx [tokens, in] = dy [tokens, out] · w.
at::Tensor linear_backward_input(const at::Tensor& dy, const at::Tensor& w);
// dx += dy · w.
void linear_backward_input_(at::Tensor dx, const at::Tensor& dy, const at::Tensor& w);
// dw [out, in] += dyᵀ · x; dw is fp32 or wider (fp32 for bf16 operands; on CUDA bf16 too).
void linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x);

// A router's products: operands of any type, logits y and their gradient dy in fp32 or wider,
// nothing rounded to less in between. On CUDA bf16 operands stay so (a product of two is exact in
// fp32); dy is taken apart into two bf16 numbers, which leaves 2^-17 of it.
at::Tensor wide_linear(const at::Tensor& x, const at::Tensor& w);  // [tokens, out], fp32 or wider
at::Tensor wide_linear_backward_input(const at::Tensor& dy,
                                      const at::Tensor& w);  // [tokens, in], dtype of w
void wide_linear_backward_input_(at::Tensor dx, const at::Tensor& dy,
                                 const at::Tensor& w);  // dx += it
void wide_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x);

// sum [out] += Σ over tokens of dy [tokens, out], in fp32 or wider and in fixed order: the gradient
// of a bias.
void column_sum_(at::Tensor sum, const at::Tensor& dy);

// The same for `experts` products at once: rows offsets[e] … offsets[e+1) of x belong to w[e]. Any
// expert may be empty. x [rows, in], w [experts, out, in], offsets [experts + 1] int64 on the CPU,
// ascending from 0 to rows → [rows, out]. On CUDA offsets are int32 on the device, and rows from
// the last offset on are left as they are (ops/matmul_cuda.h). bias and bias_weights as in
// ops/grouped_bias.h, or undefined.
at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& offsets,
                          const at::Tensor& bias = {}, const at::Tensor& bias_weights = {});
at::Tensor grouped_linear_backward_input(const at::Tensor& dy, const at::Tensor& w,
                                         const at::Tensor& offsets);
void grouped_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& offsets);

// Where each expert's rows begin and, last, where they all end: offsets as above, checked.
std::vector<int64_t> expert_ends(const at::Tensor& offsets, int64_t experts, int64_t rows);

}  // namespace conclave::ops
