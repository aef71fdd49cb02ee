#include "ops/head_norm_rotary.h"

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

constexpr double kEps = 0.1;  // large, so that one that is forgotten shows

struct Case {
  int64_t tokens, heads, head_dim;
};
constexpr Case kCases[] = {{0, 2, 8},     {1, 1, 2},      {7, 3, 34},  {40, 2, 64},
                           {200, 5, 128}, {300, 32, 128}, {9, 3, 256}, {5, 2, 512}};

struct HeadNormRotaryOp : EachDevice {
  RotaryTable table(Case c, at::ScalarType dtype) const {
    const RotaryTable t = rotary_table(100, c.head_dim, {.theta = 1e4}, dtype);
    return {here(t.cos), here(t.sin)};
  }
};
ON_EACH_DEVICE(HeadNormRotaryOp);

Tensors inputs(Case c, at::ScalarType dtype) {  // x, weight, dy, positions
  return {normal({c.tokens, c.heads, c.head_dim}, dtype, 1), normal({c.head_dim}, dtype, 2),
          normal({c.tokens, c.heads, c.head_dim}, dtype, 3), whole({c.tokens}, 100, 4)};
}

// {y, y made again, rstd, dx, dweight}
Op fused(const RotaryTable& table) {
  return [=](const Tensors& in) -> Tensors {
    auto [y, rstd] = head_norm_rotary(in[0], in[1], kEps, in[3], table);
    auto [dx, dweight] = head_norm_rotary_backward(in[2], in[0], rstd, in[1], in[3], table);
    return {y, head_norm_rotary_from(in[0], rstd, in[1], in[3], table), rstd, dx, dweight};
  };
}

// By the two ops, on the CPU.
Op apart(Case c, const RotaryTable& table) {
  return [=](const Tensors& in) -> Tensors {
    // The reference is also run in fp64 on the same values.
    const RotaryTable t{table.cos.to(wide(in[0].scalar_type())),
                        table.sin.to(wide(in[0].scalar_type()))};
    const at::Tensor rows = in[0].view({c.tokens * c.heads, c.head_dim});
    auto [normed, rstd] = rms_norm(rows, in[1], kEps);
    const at::Tensor y = rotary(normed.view(in[0].sizes()), in[3], t);
    const at::Tensor dnormed = rotary_backward(in[2], in[3], t);
    auto [dx, dweight] = rms_norm_backward(dnormed.view(rows.sizes()), rows, rstd, in[1]);
    return {y, y, rstd, dx.view(in[0].sizes()), dweight};
  };
}

TEST_P(HeadNormRotaryOp, EqualsNormAndRotationInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message()
                   << c.tokens << " x " << c.heads << " x " << c.head_dim << " " << dtype);
      const RotaryTable cpu = rotary_table(100, c.head_dim, {.theta = 1e4}, dtype);
      const Tensors in = inputs(c, dtype);
      expect_as_good_as_aten(here(fused(table(c, dtype))), apart(c, cpu), in);
      const Tensors got = here(fused(table(c, dtype)))(in);
      EXPECT_TRUE(same_bits(got[0], got[1]));
      expect_same_bits_on_any_threads([&] { return here(fused(table(c, dtype)))(in); });
    }
}

TEST(HeadNormRotary, SaysWhatItExpected) {
  const Tensors in = inputs({4, 2, 8}, at::kFloat);
  const RotaryTable table = rotary_table(100, 8, {.theta = 1e4}, at::kFloat);
  expect_error([&] { head_norm_rotary(in[0], in[1].slice(0, 1).clone(), kEps, in[3], table); },
               "weight: expected [head_dim] = [8], got [7]");
  expect_error([&] { head_norm_rotary(in[0], in[1], 0, in[3], table); }, "eps: expected");
}

}  // namespace
}  // namespace conclave::ops
