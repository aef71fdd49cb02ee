#include "ops/swiglu.h"

#include <ATen/ops/silu.h>

#include <cmath>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t rows, ffn;
};
constexpr Case kCases[] = {{0, 8}, {1, 1}, {7, 33}, {130, 48}, {300, 100}};

Tensors inputs(Case c, at::ScalarType dtype, bool weighted) {  // gate_up, weights (or none), dy
  return {normal({c.rows, 2 * c.ffn}, dtype, 1).mul(4),
          weighted ? normal({c.rows}, wide(dtype), 2) : at::Tensor(),
          normal({c.rows, c.ffn}, dtype, 3)};
}

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

TEST(Swiglu, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes)
      for (bool weighted : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << c.rows << " x " << c.ffn << " " << dtype << (weighted ? " weighted" : ""));
        expect_as_good_as_aten(ours, aten, inputs(c, dtype, weighted));
        expect_same_bits_on_any_threads([&] { return ours(inputs(c, dtype, weighted)); });
      }
}

TEST(Swiglu, StaysFiniteForLargeGates) {
  for (auto dtype : kTypes) {
    at::Tensor gate_up = normal({2, 40}, dtype, 1);
    gate_up.select(0, 0).fill_(-3e4), gate_up.select(0, 1).fill_(3e4);
    for (const at::Tensor& t : ours({gate_up, at::Tensor(), normal({2, 20}, dtype, 2)}))
      EXPECT_TRUE(std::isfinite(t.to(at::kDouble).abs().max().item().toDouble()));
  }
}

}  // namespace
}  // namespace conclave::ops
