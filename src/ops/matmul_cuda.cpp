#include "ops/matmul_cuda.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

namespace conclave::ops::cuda {

at::Tensor linear(const at::Tensor& x, const at::Tensor& w) { return at::mm(x, w.t()); }

at::Tensor linear_backward_input(const at::Tensor& dy, const at::Tensor& w) {
  return at::mm(dy, w);
}

void linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x) {
  if (x.size(0) == 0) return;
  if (dw.scalar_type() == x.scalar_type())
    dw.addmm_(dy.t(), x);
  else  // bf16 operands into fp32: the sum is never rounded to bf16
    at::addmm_out(dw, dw, dy.t(), x, dw.scalar_type());
}

void column_sum_(at::Tensor sum, const at::Tensor& dy) {
  sum.add_(at::sum(dy, {0}, /*keepdim=*/false, sum.scalar_type()));
}

}  // namespace conclave::ops::cuda
