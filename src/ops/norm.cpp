#include "ops/norm.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/norm_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

template <class S>
void scale_row(S* y, const S* x, acc_t<S> rstd, const S* weight, int64_t hidden) {
  sweep<acc_t<S>>(hidden, [&](int64_t i, auto lanes) {
    store(y + i, rounded_to<S>(load(x + i, lanes) * rstd) * load(weight + i, lanes), lanes);
  });
}

template <class S>
acc_t<S> row_rstd(const S* x, int64_t hidden, double eps) {
  using A = acc_t<S>;
  const A squares = sum_over<A>(hidden, [&](int64_t i, auto lanes) {
    const Vec<A> v = load(x + i, lanes);
    return v * v;
  });
  return A(1) / std::sqrt(squares / A(hidden) + A(eps));
}

// With x̂ = x · rstd and g = dy · weight: dx = rstd · (g − x̂ · mean(g · x̂)) + dsum, dweight += dy ·
// x̂ (x̂ as it was rounded).
template <class S>
void backward_row(S* dx, acc_t<S>* dweight, const S* dy, const S* x, const S* dsum, acc_t<S> rstd,
                  const S* weight, int64_t hidden) {
  using A = acc_t<S>;
  const A dot = sum_over<A>(hidden, [&](int64_t i, auto lanes) {
    return load(dy + i, lanes) * load(weight + i, lanes) * load(x + i, lanes);
  });
  const A mean = dot * rstd / A(hidden);
  sweep<A>(hidden, [&](int64_t i, auto lanes) {
    const Vec<A> g = load(dy + i, lanes), normal = load(x + i, lanes) * rstd;
    const Vec<A> through = (g * load(weight + i, lanes) - normal * mean) * rstd;
    store(dx + i, dsum ? through + load(dsum + i, lanes) : through, lanes);
    store(dweight + i, load(dweight + i, lanes) + g * rounded_to<S>(normal), lanes);
  });
}

// dweight is summed in blocks of rows, then over the blocks: at least 64 rows each, at most 256
// blocks.
int64_t rows_a_block(int64_t tokens) { return std::max<int64_t>(64, (tokens + 255) / 256); }

void check_operands(const at::Tensor& x, const at::Tensor& weight) {
  TORCH_CHECK(x.dim() == 2, "x: expected [tokens, hidden], got ", x.sizes());
  const int64_t tokens = x.size(0), hidden = x.size(1);
  CHECK_SHAPE(x, tokens, hidden);
  CHECK_SHAPE(weight, hidden);
  CHECK_DTYPE(weight, x.scalar_type());
}

void check_rstd(const at::Tensor& x, const at::Tensor& rstd) {
  const int64_t tokens = x.size(0);
  CHECK_SHAPE(rstd, tokens);
  CHECK_DTYPE(rstd, at::toOpMathType(x.scalar_type()));
}

}  // namespace

RmsNorm rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_operands(x, weight);
  TORCH_CHECK(eps > 0, "eps: expected a value above 0, got ", eps);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) {
      auto [_, y, rstd] = cuda::add_rms_norm(x, {}, weight, eps);
      return {y, rstd};
    }
  const int64_t tokens = x.size(0), hidden = x.size(1);
  at::Tensor y = at::empty_like(x),
             rstd = at::empty({tokens}, x.options().dtype(at::toOpMathType(x.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm", [&] {
    const scalar_t *from = x.const_data_ptr<scalar_t>(), *scale = weight.const_data_ptr<scalar_t>();
    scalar_t* to = y.data_ptr<scalar_t>();
    acc_t<scalar_t>* r = rstd.data_ptr<acc_t<scalar_t>>();
    each_block(tokens, hidden, [&](int64_t t) {
      r[t] = row_rstd(from + t * hidden, hidden, eps);
      scale_row(to + t * hidden, from + t * hidden, r[t], scale, hidden);
    });
  });
  return {y, rstd};
}

AddRmsNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                        double eps) {
  check_operands(x, weight);
  TORCH_CHECK(eps > 0, "eps: expected a value above 0, got ", eps);
  const int64_t tokens = x.size(0), hidden = x.size(1);
  CHECK_SHAPE(residual, tokens, hidden);
  CHECK_DTYPE(residual, x.scalar_type());
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::add_rms_norm(x, residual, weight, eps);
  at::Tensor sum = at::add(x, residual);
  auto [y, rstd] = rms_norm(sum, weight, eps);
  return {sum, y, rstd};
}

at::Tensor rms_norm_from(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight) {
  check_operands(x, weight);
  check_rstd(x, rstd);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::rms_norm_from(x, rstd, weight);
  const int64_t tokens = x.size(0), hidden = x.size(1);
  at::Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm_from", [&] {
    const scalar_t *from = x.const_data_ptr<scalar_t>(), *scale = weight.const_data_ptr<scalar_t>();
    scalar_t* to = y.data_ptr<scalar_t>();
    const acc_t<scalar_t>* r = rstd.const_data_ptr<acc_t<scalar_t>>();
    each_block(tokens, hidden, [&](int64_t t) {
      scale_row(to + t * hidden, from + t * hidden, r[t], scale, hidden);
    });
  });
  return y;
}

RmsNormGrad rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                              const at::Tensor& weight, const at::Tensor& dsum) {
  check_operands(x, weight);
  check_rstd(x, rstd);
  const int64_t tokens = x.size(0), hidden = x.size(1);
  CHECK_SHAPE(dy, tokens, hidden);
  CHECK_DTYPE(dy, x.scalar_type());
  if (dsum.defined()) {
    CHECK_SHAPE(dsum, tokens, hidden);
    CHECK_DTYPE(dsum, x.scalar_type());
  }
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::rms_norm_backward(dy, x, rstd, weight, dsum);
  const int64_t rows = rows_a_block(tokens), blocks = (tokens + rows - 1) / rows;
  at::Tensor dx = at::empty_like(x), dweight = at::empty({hidden}, rstd.options());
  at::Tensor parts = at::empty({blocks, hidden}, rstd.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm_backward", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t *g = dy.const_data_ptr<scalar_t>(), *from = x.const_data_ptr<scalar_t>();
    const scalar_t* scale = weight.const_data_ptr<scalar_t>();
    const scalar_t* other = dsum.defined() ? dsum.const_data_ptr<scalar_t>() : nullptr;
    const A* r = rstd.const_data_ptr<A>();
    scalar_t* to = dx.data_ptr<scalar_t>();
    A *part = parts.data_ptr<A>(), *total = dweight.data_ptr<A>();
    each_block(blocks, rows * hidden * 2, [&](int64_t b) {
      std::fill_n(part + b * hidden, hidden, A(0));
      for (int64_t t = b * rows; t < std::min(tokens, (b + 1) * rows); ++t)
        backward_row(to + t * hidden, part + b * hidden, g + t * hidden, from + t * hidden,
                     other ? other + t * hidden : nullptr, r[t], scale, hidden);
    });
    std::fill_n(total, hidden, A(0));
    for (int64_t b = 0; b < blocks; ++b)
      sweep<A>(hidden, [&](int64_t i, auto lanes) {
        store(total + i, load(total + i, lanes) + load(part + b * hidden + i, lanes), lanes);
      });
  });
  return {dx, dweight};
}

}  // namespace conclave::ops
