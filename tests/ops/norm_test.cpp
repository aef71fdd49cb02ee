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
constexpr Case kCases[] = {{0, 8},      {1, 1},     {7, 48},     {33, 100}, {130, 17},
                           {300, 64},   {5, 2048},  {2000, 128}, {70, 256}, {9, 1024},
                           {600, 2048}, {20, 2880}, {9, 7168},   {3, 9000}};

Tensors inputs(Case c, at::ScalarType dtype) {  // x, weight, dy
  return {normal({c.tokens, c.hidden}, dtype, 1), normal({c.hidden}, dtype, 2),
          normal({c.tokens, c.hidden}, dtype, 3)};
}

struct RmsNormOp : EachDevice {};
ON_EACH_DEVICE(RmsNormOp);

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

TEST_P(RmsNormOp, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.hidden << " " << dtype);
      expect_as_good_as_aten(here(ours), aten, inputs(c, dtype));
    }
}

TEST_P(RmsNormOp, RoundsInBf16WhereTheReferenceDoes) {
  const Tensors in = inputs({64, 96}, at::kBFloat16);
  const at::Tensor y = here(ours)(in)[0];
  EXPECT_LE(distance(y, aten(in)[0]),
            0x1p-7);  // at most one rounding apart, where a sum ended on the other side
  EXPECT_LE(y.ne(aten(in)[0]).sum().item().toDouble(), 6);
}

TEST_P(RmsNormOp, HasTheSameBitsOnAnyNumberOfThreads) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      const Tensors in = inputs(c, dtype);
      expect_same_bits_on_any_threads([&] { return here(ours)(in); });
    }
}

TEST_P(RmsNormOp, IsMadeAgainFromWhatTheBackwardKeeps) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      const Tensors both = here([](const Tensors& in) -> Tensors {
        auto [y, rstd] = rms_norm(in[0], in[1], kEps);
        return {y, rms_norm_from(in[0], rstd, in[1])};
      })(inputs(c, dtype));
      EXPECT_TRUE(same_bits(both[0], both[1])) << c.tokens << " x " << c.hidden << " " << dtype;
    }
}

// A sum and its norm, whose gradients come in together: the same as an addition and a norm.
TEST_P(RmsNormOp, OfASumEqualsTheTwoStepsBitForBit) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.hidden << " " << dtype);
      Tensors in = inputs(c, dtype);
      in.push_back(normal({c.tokens, c.hidden}, dtype, 4));  // residual
      in.push_back(normal({c.tokens, c.hidden}, dtype, 5));  // dsum
      const Tensors once = here([](const Tensors& in) -> Tensors {
        auto [sum, y, rstd] = add_rms_norm(in[0], in[3], in[1], kEps);
        return {sum, y, rstd};
      })(in);
      const Tensors twice = here([](const Tensors& in) -> Tensors {
        const at::Tensor sum = in[0].add(in[3]);
        auto [y, rstd] = rms_norm(sum, in[1], kEps);
        return {sum, y, rstd};
      })(in);
      for (size_t i = 0; i < once.size(); ++i) EXPECT_TRUE(same_bits(once[i], twice[i])) << i;
      auto together = [](const Tensors& in) -> Tensors {
        const at::Tensor rstd = rms_norm(in[0], in[1], kEps).rstd;
        return {rms_norm_backward(in[2], in[0], rstd, in[1], in[4]).dx};
      };
      expect_as_good_as_aten(
          here(together), [](const Tensors& in) -> Tensors { return {aten(in)[2].add(in[4])}; },
          in);
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
