#include "ops/rotary.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/sin.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/rotary_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

// (a, b) → (a·cos − b·sin, b·cos + a·sin) for each pair of a head; `sign` −1 turns back.
template <class S>
void turn_halves(S* y, const S* x, const acc_t<S>* cos, const acc_t<S>* sin, acc_t<S> sign,
                 int64_t pairs) {
  sweep<acc_t<S>>(pairs, [&](int64_t i, auto lanes) {
    const Vec<acc_t<S>> a = load(x + i, lanes), b = load(x + pairs + i, lanes);
    const Vec<acc_t<S>> c = load(cos + i, lanes), s = load(sin + i, lanes) * sign;
    store(y + i, a * c - b * s, lanes);
    store(y + pairs + i, b * c + a * s, lanes);
  });
}

template <class S>
void turn_neighbours(S* y, const S* x, const acc_t<S>* cos, const acc_t<S>* sin, acc_t<S> sign,
                     int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const acc_t<S> a = x[2 * i], b = x[2 * i + 1], c = cos[i], s = sin[i] * sign;
    y[2 * i] = static_cast<S>(a * c - b * s);
    y[2 * i + 1] = static_cast<S>(b * c + a * s);
  }
}

void check(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
           int64_t passed) {
  TORCH_CHECK(x.dim() == 3, "x: expected [tokens, heads, head_dim], got ", x.sizes());
  const int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2);
  TORCH_CHECK(passed >= 0 && passed <= head_dim && (head_dim - passed) % 2 == 0,
              "x: expected an even number of rotary elements after the first ", passed,
              " of each head, got heads of ", head_dim);
  CHECK_SHAPE(x, tokens, heads, head_dim);
  CHECK_SHAPE(positions, tokens);
  CHECK_DTYPE(positions, at::kLong);
  const at::Tensor &cos = table.cos, &sin = table.sin;
  TORCH_CHECK(cos.dim() == 2, "cos: expected [positions, rotary_dim / 2], got ", cos.sizes());
  const int64_t known = cos.size(0), pairs = (head_dim - passed) / 2;
  CHECK_SHAPE(cos, known, pairs);
  CHECK_SHAPE(sin, known, pairs);
  CHECK_DTYPE(cos, at::toOpMathType(x.scalar_type()));
  CHECK_DTYPE(sin, at::toOpMathType(x.scalar_type()));
  if (x.is_cuda()) return;  // the kernel looks at the positions
  const int64_t* p = positions.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens; ++t)
    TORCH_CHECK(p[t] >= 0 && p[t] < known, "positions: expected 0 … ", known - 1, ", got ", p[t],
                " at token ", t);
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
                  RotaryForm form, int64_t passed, double sign) {
  check(x, positions, table, passed);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::rotate(x, positions, table, form, passed, sign < 0);
  const int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2),
                pairs = (head_dim - passed) / 2;
  const int64_t* p = positions.const_data_ptr<int64_t>();
  at::Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rotary", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    const A *cos = table.cos.const_data_ptr<A>(), *sin = table.sin.const_data_ptr<A>();
    scalar_t* to = y.data_ptr<scalar_t>();
    const auto turn = form == RotaryForm::half ? turn_halves<scalar_t> : turn_neighbours<scalar_t>;
    each_block(tokens, heads * head_dim, [&](int64_t t) {
      for (int64_t h = t * heads; h < (t + 1) * heads; ++h) {
        std::copy_n(from + h * head_dim, passed, to + h * head_dim);
        turn(to + h * head_dim + passed, from + h * head_dim + passed, cos + p[t] * pairs,
             sin + p[t] * pairs, A(sign), pairs);
      }
    });
  });
  return y;
}

// The pair that turns `turns` times within the original positions (a real number).
double pair_that_turns(double turns, double dim, const RopeConfig& c) {
  return dim * std::log(c.original_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(c.theta));
}

// The frequency of each pair; every rounding in fp32 is that of transformers'
// _compute_yarn_parameters.
at::Tensor frequencies(int64_t dim, const RopeConfig& c, at::ScalarType wide) {
  const at::Tensor exponent = at::arange(0, dim, 2, at::kLong).to(wide).div(dim);
  const at::Tensor period = at::pow(c.theta, exponent);
  if (!c.yarn) return period.reciprocal();
  double low = pair_that_turns(c.beta_fast, static_cast<double>(dim), c),
         high = pair_that_turns(c.beta_slow, static_cast<double>(dim), c);
  if (c.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp =
      at::arange(dim / 2, at::kLong).to(wide).sub(low).div(high - low).clamp(0, 1);
  const at::Tensor kept = at::rsub(ramp, 1);
  return period.mul(c.factor)
      .reciprocal()
      .mul(at::rsub(kept, 1))
      .add(period.reciprocal().mul(kept));
}

double attention_factor(const RopeConfig& c) {
  if (!c.yarn) return 1;
  if (c.attention_factor != 0) return c.attention_factor;
  if (c.mscale == 0 || c.mscale_all_dim == 0) return yarn_mscale(c.factor, 1);
  return yarn_mscale(c.factor, c.mscale) / yarn_mscale(c.factor, c.mscale_all_dim);
}

}  // namespace

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

RotaryTable rotary_table(int64_t positions, int64_t rotary_dim, const RopeConfig& config,
                         at::ScalarType dtype) {
  TORCH_CHECK(positions >= 0 && rotary_dim > 0 && rotary_dim % 2 == 0 && config.theta > 0,
              "rotary_table: expected positions ≥ 0, an even rotary_dim and theta > 0, got ",
              positions, ", ", rotary_dim, ", ", config.theta);
  TORCH_CHECK(
      !config.yarn || (config.theta > 1 && config.factor > 0 && config.original_positions > 0 &&
                       config.beta_slow > 0 && config.beta_fast >= config.beta_slow),
      "rotary_table: YaRN: expected theta > 1, factor and original_positions > 0, beta_fast "
      "≥ beta_slow > 0, got ",
      config.theta, ", ", config.factor, ", ", config.original_positions, ", ", config.beta_fast,
      ", ", config.beta_slow);
  const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor angle = at::arange(positions, at::kLong)
                               .to(wide)
                               .unsqueeze(1)
                               .mul(frequencies(rotary_dim, config, wide));
  const double factor = attention_factor(config);
  return {at::cos(angle).mul_(factor), at::sin(angle).mul_(factor)};
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
                  RotaryForm form, int64_t passed) {
  return rotate(x, positions, table, form, passed, 1);
}

at::Tensor rotary_backward(const at::Tensor& dy, const at::Tensor& positions,
                           const RotaryTable& table, RotaryForm form, int64_t passed) {
  return rotate(dy, positions, table, form, passed, -1);
}

}  // namespace conclave::ops
