#include "ops/rotary.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

// (a, b) → (a·cos − b·sin, b·cos + a·sin) for the two halves of each head; `sign` −1 turns back.
template <class S>
void rotate_head(S* y, const S* x, const acc_t<S>* cos, const acc_t<S>* sin, acc_t<S> sign,
                 int64_t half) {
  sweep<acc_t<S>>(half, [&](int64_t i, auto lanes) {
    const Vec<acc_t<S>> a = load(x + i, lanes), b = load(x + half + i, lanes);
    const Vec<acc_t<S>> c = load(cos + i, lanes), s = load(sin + i, lanes) * sign;
    store(y + i, a * c - b * s, lanes);
    store(y + half + i, b * c + a * s, lanes);
  });
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
                  double sign) {
  TORCH_CHECK(x.dim() == 3 && x.size(2) % 2 == 0,
              "x: expected [tokens, heads, head_dim] with an even head_dim, got ", x.sizes());
  const int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2), half = head_dim / 2;
  CHECK_SHAPE(x, tokens, heads, head_dim);
  CHECK_SHAPE(positions, tokens);
  CHECK_DTYPE(positions, at::kLong);
  const at::Tensor &cos = table.cos, &sin = table.sin;
  TORCH_CHECK(cos.dim() == 2, "cos: expected [positions, head_dim / 2], got ", cos.sizes());
  const int64_t known = cos.size(0);
  CHECK_SHAPE(cos, known, half);
  CHECK_SHAPE(sin, known, half);
  CHECK_DTYPE(cos, at::toOpMathType(x.scalar_type()));
  CHECK_DTYPE(sin, at::toOpMathType(x.scalar_type()));
  const int64_t* p = positions.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens; ++t)
    TORCH_CHECK(p[t] >= 0 && p[t] < known, "positions: expected 0 … ", known - 1, ", got ", p[t],
                " at token ", t);
  at::Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rotary", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    const A *c = cos.const_data_ptr<A>(), *s = sin.const_data_ptr<A>();
    scalar_t* to = y.data_ptr<scalar_t>();
    each_block(tokens, heads * head_dim, [&](int64_t t) {
      for (int64_t h = t * heads; h < (t + 1) * heads; ++h)
        rotate_head(to + h * head_dim, from + h * head_dim, c + p[t] * half, s + p[t] * half,
                    A(sign), half);
    });
  });
  return y;
}

}  // namespace

RotaryTable rotary_table(int64_t positions, int64_t head_dim, double theta, at::ScalarType dtype) {
  TORCH_CHECK(positions >= 0 && head_dim > 0 && head_dim % 2 == 0 && theta > 0,
              "rotary_table: expected positions ≥ 0, an even head_dim and theta > 0, got ",
              positions, ", ", head_dim, ", ", theta);
  const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  // transformers: 1.0 / (theta ** (arange(0, dim, 2, int64).float() / dim)), then position.float()
  // times it.
  const at::Tensor exponent = at::arange(0, head_dim, 2, at::kLong).to(wide).div(head_dim);
  const at::Tensor frequency = at::pow(theta, exponent).reciprocal();
  const at::Tensor angle = at::arange(positions, at::kLong).to(wide).unsqueeze(1).mul(frequency);
  return {at::cos(angle), at::sin(angle)};
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table) {
  return rotate(x, positions, table, 1);
}

at::Tensor rotary_backward(const at::Tensor& dy, const at::Tensor& positions,
                           const RotaryTable& table) {
  return rotate(dy, positions, table, -1);
}

}  // namespace conclave::ops
