#include "ops/matmul_cuda.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

namespace conclave::ops::cuda {

at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  return bias.defined() ? at::addmm(bias, x, w.t()) : at::mm(x, w.t());
}

at::Tensor linear_backward_input(const at::Tensor& dy, const at::Tensor& w) {
  return at::mm(dy, w);
}

void linear_backward_input_(at::Tensor dx, const at::Tensor& dy, const at::Tensor& w) {
  if (dy.size(0) > 0) dx.addmm_(dy, w);
}

void linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x) {
  if (x.size(0) == 0) return;
  if (dw.scalar_type() == x.scalar_type())
    dw.addmm_(dy.t(), x);
  else  // bf16 operands into fp32: the sum is never rounded to bf16
    at::addmm_out(dw, dw, dy.t(), x, dw.scalar_type());
}

namespace {

// fp32 x = high + low + at most 2^-17 |x|, both bf16.
struct TwoParts {
  at::Tensor high, low;
};
TwoParts parts_of(const at::Tensor& x) {
  const at::Tensor high = x.to(at::kBFloat16);
  return {high, x.sub(high).to(at::kBFloat16)};
}

}  // namespace

at::Tensor wide_linear(const at::Tensor& x, const at::Tensor& w) {
  return at::mm(x, w.t(), at::kFloat);
}

at::Tensor wide_linear_backward_input(const at::Tensor& dy, const at::Tensor& w) {
  const auto [high, low] = parts_of(dy);
  return at::mm(at::cat({high, low}, 1), at::cat({w, w}));  // one sum, rounded once
}

void wide_linear_backward_input_(at::Tensor dx, const at::Tensor& dy, const at::Tensor& w) {
  const auto [high, low] = parts_of(dy);
  if (dy.size(0) > 0) dx.addmm_(at::cat({high, low}, 1), at::cat({w, w}));
}

void wide_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x) {
  const auto [high, low] = parts_of(dy);
  linear_backward_weight_(dw, high, x);
  linear_backward_weight_(dw, low, x);
}

void column_sum_(at::Tensor sum, const at::Tensor& dy) {
  sum.add_(at::sum(dy, {0}, /*keepdim=*/false, sum.scalar_type()));
}

}  // namespace conclave::ops::cuda
