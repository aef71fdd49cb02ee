#include "ops/head_norm_rotary.h"

#include <ATen/OpMathType.h>

#include "base/check.h"
#include "ops/device.h"
#include "ops/rotary_cuda.h"

namespace conclave::ops {
namespace {

at::Tensor by_head(const at::Tensor& x) { return x.view({x.size(0) * x.size(1), x.size(2)}); }

// rms_norm and rotary check for themselves on the CPU; the kernel is one for both.
void check_operands(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& positions,
                    const RotaryTable& table) {
  TORCH_CHECK(x.dim() == 3 && x.size(2) > 0 && x.size(2) % 2 == 0,
              "x: expected [tokens, heads, head_dim] with an even head_dim, got ", x.sizes());
  const int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2), half = head_dim / 2;
  CHECK_SHAPE(x, tokens, heads, head_dim);
  CHECK_SHAPE(weight, head_dim);
  CHECK_DTYPE(weight, x.scalar_type());
  CHECK_SHAPE(positions, tokens);
  CHECK_DTYPE(positions, at::kLong);
  const at::Tensor &cos = table.cos, &sin = table.sin;
  TORCH_CHECK(cos.dim() == 2, "cos: expected [positions, head_dim / 2], got ", cos.sizes());
  const int64_t known = cos.size(0);
  CHECK_SHAPE(cos, known, half);
  CHECK_SHAPE(sin, known, half);
  CHECK_DTYPE(cos, at::toOpMathType(x.scalar_type()));
  CHECK_DTYPE(sin, at::toOpMathType(x.scalar_type()));
}

void check_rstd(const at::Tensor& x, const at::Tensor& rstd) {
  const int64_t rows = x.size(0) * x.size(1);
  CHECK_SHAPE(rstd, rows);
  CHECK_DTYPE(rstd, at::toOpMathType(x.scalar_type()));
}

void check_gradient(const at::Tensor& dy, const at::Tensor& x) {
  const int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2);
  CHECK_SHAPE(dy, tokens, heads, head_dim);
  CHECK_DTYPE(dy, x.scalar_type());
}

constexpr at::Tensor QueryKey::*kBoth[] = {&QueryKey::q, &QueryKey::k};

void check_both(const QueryKey& x, const QueryKey& weight, const at::Tensor& positions,
                const RotaryTable& table) {
  for (auto of : kBoth) check_operands(x.*of, weight.*of, positions, table);
  TORCH_CHECK(x.k.scalar_type() == x.q.scalar_type() && x.k.device() == x.q.device(),
              "x.k: expected the queries' ", x.q.scalar_type(), " on ", x.q.device(), ", got ",
              x.k.scalar_type(), " on ", x.k.device());
}

}  // namespace

HeadNormRotary head_norm_rotary(const QueryKey& x, const QueryKey& weight, double eps,
                                const at::Tensor& positions, const RotaryTable& table) {
  check_both(x, weight, positions, table);
  TORCH_CHECK(eps > 0, "eps: expected a value above 0, got ", eps);
  if constexpr (kCudaBuild)
    if (x.q.is_cuda()) return cuda::head_norm_rotary(x, weight, eps, positions, table);
  HeadNormRotary result;
  for (auto of : kBoth) {
    auto [normed, rstd] = rms_norm(by_head(x.*of), weight.*of, eps);
    result.y.*of = rotary(normed.view((x.*of).sizes()), positions, table);
    result.rstd.*of = rstd;
  }
  return result;
}

at::Tensor head_norm_rotary_from(const at::Tensor& x, const at::Tensor& rstd,
                                 const at::Tensor& weight, const at::Tensor& positions,
                                 const RotaryTable& table) {
  check_operands(x, weight, positions, table);
  check_rstd(x, rstd);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::head_norm_rotary_from(x, rstd, weight, positions, table);
  return rotary(rms_norm_from(by_head(x), rstd, weight).view(x.sizes()), positions, table);
}

HeadNormRotaryGrad head_norm_rotary_backward(const QueryKey& dy, const QueryKey& x,
                                             const QueryKey& rstd, const QueryKey& weight,
                                             const at::Tensor& positions,
                                             const RotaryTable& table) {
  check_both(x, weight, positions, table);
  for (auto of : kBoth) {
    check_rstd(x.*of, rstd.*of);
    check_gradient(dy.*of, x.*of);
  }
  if constexpr (kCudaBuild)
    if (x.q.is_cuda())
      return cuda::head_norm_rotary_backward(dy, x, rstd, weight, positions, table);
  HeadNormRotaryGrad grad;
  for (auto of : kBoth) {
    const at::Tensor dnormed = rotary_backward(dy.*of, positions, table);
    auto [dx, dweight] = rms_norm_backward(by_head(dnormed), by_head(x.*of), rstd.*of, weight.*of);
    grad.dx.*of = dx.view((x.*of).sizes());
    grad.dweight.*of = dweight;
  }
  return grad;
}

}  // namespace conclave::ops
