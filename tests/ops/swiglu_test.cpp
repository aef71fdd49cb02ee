#include "ops/swiglu.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t rows, ffn;
};
constexpr Case kCases[] = {{0, 8}, {1, 1}, {7, 33}, {130, 48}, {300, 100}, {40, 768}, {9, 2880}};

Tensors inputs(Case c, at::ScalarType dtype, bool weighted) {  // gate_up, weights (or none), dy
  return {normal({c.rows, 2 * c.ffn}, dtype, 1).mul(4),
          weighted ? normal({c.rows}, wide(dtype), 2) : at::Tensor(),
          normal({c.rows, c.ffn}, dtype, 3)};
}

struct SwigluOp : EachDevice {};
ON_EACH_DEVICE(SwigluOp);

Tensors ours(const Tensors& in) {
  const at::Tensor y = swiglu(in[0], in[1]);
  auto [dgate_up, dweights] = swiglu_backward(in[2], in[0], in[1]);
  return dweights.defined() ? Tensors{y, dgate_up, dweights} : Tensors{y, dgate_up};
}

Tensors aten(const Tensors& in) {
  return with_gradients(
      [](const Tensors& x) -> Tensors {
        const int64_t ffn = x[0].size(1) / 2;
        const at::Tensor h = at::silu(x[0].slice(1, 0, ffn)).mul(x[0].slice(1, ffn));
        return {x[1].defined() ? h.mul(x[1].unsqueeze(1)).to(x[0].scalar_type()) : h};
      },
      {in[0], in[1]}, in[2]);
}

TEST_P(SwigluOp, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes)
      for (bool weighted : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << c.rows << " x " << c.ffn << " " << dtype << (weighted ? " weighted" : ""));
        expect_as_good_as_aten(here(ours), aten, inputs(c, dtype, weighted));
        expect_same_bits_on_any_threads([&] { return here(ours)(inputs(c, dtype, weighted)); });
      }
}

Tensors clamped(const Tensors& in) {
  const at::Tensor y = swiglu(in[0], in[1], Activation::clamped_swiglu);
  auto [dgate_up, dweights] = swiglu_backward(in[2], in[0], in[1], Activation::clamped_swiglu);
  return dweights.defined() ? Tensors{y, dgate_up, dweights} : Tensors{y, dgate_up};
}

Tensors aten_clamped(const Tensors& in) {
  return with_gradients(
      [](const Tensors& x) -> Tensors {
        const at::Tensor pairs = x[0].view({x[0].size(0), x[0].size(1) / 2, 2});
        const at::Tensor gate = pairs.select(2, 0).clamp({}, 7),
                         up = pairs.select(2, 1).clamp(-7, 7);
        const at::Tensor h = gate.mul(gate.mul(1.702).sigmoid()).mul(up.add(1));
        return {x[1].defined() ? h.mul(x[1].unsqueeze(1)).to(x[0].scalar_type()) : h};
      },
      {in[0], in[1]}, in[2]);
}

TEST_P(SwigluOp, ClampedEqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes)
      for (bool weighted : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << c.rows << " x " << c.ffn << " " << dtype << (weighted ? " weighted" : ""));
        const Tensors in = inputs(c, dtype, weighted);  // ± 4 standard: many are clamped
        expect_as_good_as_aten(here(clamped), aten_clamped, in);
        expect_same_bits_on_any_threads([&] { return here(clamped)(in); });
      }
}

// Trap 8 of the models' list: the clamp stands before the activation, bounds the gate from above
// alone, and the one added to up comes after it.
TEST_P(SwigluOp, Trap8ClampInTheWrongPlace) {
  // gate, up: inside; gate above; gate far below; up above; up below; both at the very limit.
  const at::Tensor gate_up =
      at::tensor(std::vector<double>{2, 3, 9, 3, -50, 3, 2, 11, 2, -11, 7, -7}, at::kDouble)
          .view({6, 2});
  auto silu = [](double g) { return g / (1 + std::exp(-1.702 * g)); };
  auto slope = [](double g) {
    const double s = 1 / (1 + std::exp(-1.702 * g));
    return s + 1.702 * g * s * (1 - s);
  };
  const std::vector<double> y{silu(2) * 4, silu(7) * 4,  silu(-50) * 4,
                              silu(2) * 8, silu(2) * -6, silu(7) * -6};
  const std::vector<double> dgate_up{slope(2) * 4,  silu(2),      0, silu(7),       slope(-50) * 4,
                                     silu(-50),     slope(2) * 8, 0, slope(2) * -6, 0,
                                     slope(7) * -6, silu(7)};
  const Tensors got = here(clamped)(
      {gate_up, at::Tensor(), at::tensor(std::vector<double>(6, 1.0), at::kDouble).view({6, 1})});
  EXPECT_LT(distance(got[0].view({6}), at::tensor(y, at::kDouble)), 1e-13);
  EXPECT_LT(distance(got[1].view({12}), at::tensor(dgate_up, at::kDouble)), 1e-13);
}

TEST_P(SwigluOp, StaysFiniteForLargeGates) {
  for (auto dtype : kTypes) {
    at::Tensor gate_up = normal({2, 40}, dtype, 1);
    gate_up.select(0, 0).fill_(-3e4), gate_up.select(0, 1).fill_(3e4);
    for (const auto& op : {ours, clamped})
      for (const at::Tensor& t : here(op)({gate_up, at::Tensor(), normal({2, 20}, dtype, 2)}))
        EXPECT_TRUE(std::isfinite(t.to(at::kDouble).abs().max().item().toDouble()));
  }
}

}  // namespace
}  // namespace conclave::ops
