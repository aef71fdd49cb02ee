#include "ops/norm.h"

#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

constexpr double kEps = 0.1;  // large, so that one that is forgotten shows

struct Case {
  int64_t tokens, hidden;
};
constexpr Case kCases[] = {{0, 8}, {1, 1}, {7, 48}, {33, 100}, {130, 17}, {300, 64}, {5, 2048}};

Tensors inputs(Case c, at::ScalarType dtype) {  // x, weight, dy
  return {normal({c.tokens, c.hidden}, dtype, 1), normal({c.hidden}, dtype, 2),
          normal({c.tokens, c.hidden}, dtype, 3)};
}

Tensors ours(const Tensors& in) {
  auto [y, rstd] = rms_norm(in[0], in[1], kEps);
  auto [dx, dweight] = rms_norm_backward(in[2], in[0], rstd, in[1]);
  return {y, rstd, dx, dweight};
}

// As transformers writes it: statistics in fp32, x · rstd rounded to the dtype of x, then times
// weight.
Tensors aten(const Tensors& in) {
  return with_gradients(
      [](const Tensors& x) -> Tensors {
        const at::Tensor v = x[0].to(wide(x[0].scalar_type()));
        const at::Tensor rstd =
            at::rsqrt(at::mean(v.mul(v), at::IntArrayRef({-1}), true).add(kEps));
        return {x[1].mul(v.mul(rstd).to(x[0].scalar_type())), rstd.squeeze(-1)};
      },
      {in[0], in[1]}, in[2]);
}

TEST(RmsNorm, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.hidden << " " << dtype);
      expect_as_good_as_aten(ours, aten, inputs(c, dtype));
    }
}

TEST(RmsNorm, RoundsInBf16WhereTheReferenceDoes) {
  const Tensors in = inputs({64, 96}, at::kBFloat16);
  EXPECT_LE(distance(ours(in)[0], aten(in)[0]),
            0x1p-7);  // at most one rounding apart, where a sum ended on the other side
  EXPECT_LE(ours(in)[0].ne(aten(in)[0]).sum().item().toDouble(), 6);
}

TEST(RmsNorm, HasTheSameBitsOnAnyNumberOfThreads) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      const Tensors in = inputs(c, dtype);
      expect_same_bits_on_any_threads([&] { return ours(in); });
    }
}

TEST(RmsNorm, IsMadeAgainFromWhatTheBackwardKeeps) {
  for (auto dtype : kTypes) {
    const Tensors in = inputs({33, 100}, dtype);
    auto [y, rstd] = rms_norm(in[0], in[1], kEps);
    EXPECT_TRUE(same_bits(y, rms_norm_from(in[0], rstd, in[1])));
  }
}

TEST(RmsNorm, SaysWhatItExpected) {
  const at::Tensor x = normal({4, 8}, at::kFloat, 1);
  expect_error([&] { rms_norm(x, normal({7}, at::kFloat, 2), kEps); },
               "weight: expected [hidden] = [8], got [7]");
  expect_error([&] { rms_norm(x, normal({8}, at::kFloat, 2), 0); }, "eps: expected");
}

}  // namespace
}  // namespace conclave::ops
