#include "ops/head_norm_rotary.h"

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

constexpr double kEps = 0.1;  // large, so that one that is forgotten shows

struct Case {
  int64_t tokens, heads, kv_heads, head_dim;
};
constexpr Case kCases[] = {{0, 2, 1, 8},      {1, 1, 1, 2},   {7, 3, 2, 34},
                           {40, 2, 2, 64},    {77, 5, 3, 80}, {200, 5, 1, 128},
                           {300, 32, 4, 128}, {9, 3, 0, 256}, {5, 2, 1, 512}};

struct HeadNormRotaryOp : EachDevice {
  RotaryTable table(Case c, at::ScalarType dtype) const {
    const RotaryTable t = rotary_table(100, c.head_dim, {.theta = 1e4}, dtype);
    return {here(t.cos), here(t.sin)};
  }
};
ON_EACH_DEVICE(HeadNormRotaryOp);

// x, weight and dy of the queries, then of the keys; positions
Tensors inputs(Case c, at::ScalarType dtype) {
  Tensors in;
  for (auto [heads, seed] : {std::pair{c.heads, 1}, {c.kv_heads, 5}})
    in.insert(in.end(), {normal({c.tokens, heads, c.head_dim}, dtype, seed),
                         normal({c.head_dim}, dtype, seed + 1),
                         normal({c.tokens, heads, c.head_dim}, dtype, seed + 2)});
  in.push_back(whole({c.tokens}, 100, 4));
  return in;
}

// {y, y made again, rstd, dx, dweight} of the queries, then of the keys
Op fused(const RotaryTable& table) {
  return [=](const Tensors& in) -> Tensors {
    const QueryKey x{in[0], in[3]}, weight{in[1], in[4]}, dy{in[2], in[5]};
    const at::Tensor positions = in[6];
    const auto [y, rstd] = head_norm_rotary(x, weight, kEps, positions, table);
    const auto [dx, dweight] = head_norm_rotary_backward(dy, x, rstd, weight, positions, table);
    Tensors result;
    for (auto of : {&QueryKey::q, &QueryKey::k})
      result.insert(result.end(),
                    {y.*of, head_norm_rotary_from(x.*of, rstd.*of, weight.*of, positions, table),
                     rstd.*of, dx.*of, dweight.*of});
    return result;
  };
}

// By the two ops, on the CPU.
Op apart(const RotaryTable& table) {
  return [=](const Tensors& in) -> Tensors {
    // The reference is also run in fp64 on the same values.
    const RotaryTable t{table.cos.to(wide(in[0].scalar_type())),
                        table.sin.to(wide(in[0].scalar_type()))};
    Tensors result;
    for (size_t of : {0, 3}) {
      const at::Tensor &x = in[of], &weight = in[of + 1], &dy = in[of + 2], &positions = in[6];
      const at::Tensor rows = x.view({x.size(0) * x.size(1), x.size(2)});
      const auto [normed, rstd] = rms_norm(rows, weight, kEps);
      const at::Tensor y = rotary(normed.view(x.sizes()), positions, t);
      const at::Tensor dnormed = rotary_backward(dy, positions, t);
      const auto [dx, dweight] = rms_norm_backward(dnormed.view(rows.sizes()), rows, rstd, weight);
      result.insert(result.end(), {y, y, rstd, dx.view(x.sizes()), dweight});
    }
    return result;
  };
}

TEST_P(HeadNormRotaryOp, EqualsNormAndRotationInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.heads << " and " << c.kv_heads
                                        << " x " << c.head_dim << " " << dtype);
      const RotaryTable cpu = rotary_table(100, c.head_dim, {.theta = 1e4}, dtype);
      const Tensors in = inputs(c, dtype);
      expect_as_good_as_aten(here(fused(table(c, dtype))), apart(cpu), in);
      const Tensors got = here(fused(table(c, dtype)))(in);
      EXPECT_TRUE(same_bits(got[0], got[1]) && same_bits(got[5], got[6]));
      expect_same_bits_on_any_threads([&] { return here(fused(table(c, dtype)))(in); });
    }
}

TEST(HeadNormRotary, SaysWhatItExpected) {
  const Tensors in = inputs({4, 2, 1, 8}, at::kFloat);
  const RotaryTable table = rotary_table(100, 8, {.theta = 1e4}, at::kFloat);
  const QueryKey x{in[0], in[3]}, weight{in[1], in[4]};
  auto run = [&](const QueryKey& x, const QueryKey& weight, double eps) {
    head_norm_rotary(x, weight, eps, in[6], table);
  };
  expect_error(
      [&] {
        run(x, {in[1], in[4].slice(0, 1).clone()}, kEps);
      },
      "weight: expected [head_dim] = [8], got [7]");
  expect_error([&] { run(x, weight, 0); }, "eps: expected");
  expect_error([&] { run({x.q, x.k.to(at::kDouble)}, weight, kEps); }, "expected");
}

}  // namespace
}  // namespace conclave::ops
