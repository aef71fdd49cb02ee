#include "ops/rotary.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>

#include <cmath>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t tokens, heads, head_dim;
};
constexpr Case kCases[] = {{0, 2, 8},   {1, 1, 2},     {7, 3, 34},
                           {40, 2, 64}, {513, 1, 128}, {9, 3, 192}};

Tensors inputs(Case c, at::ScalarType dtype) {  // x, dy, positions
  return {normal({c.tokens, c.heads, c.head_dim}, dtype, 1),
          normal({c.tokens, c.heads, c.head_dim}, dtype, 2), whole({c.tokens}, 100, 3)};
}

struct RotaryOp : EachDevice {
  Op ours(const RotaryTable& table, RotaryForm form = RotaryForm::half, int64_t passed = 0) const {
    const RotaryTable there{here(table.cos), here(table.sin)};
    return here([=](const Tensors& in) -> Tensors {
      return {rotary(in[0], in[2], there, form, passed),
              rotary_backward(in[1], in[2], there, form, passed)};
    });
  }
};
ON_EACH_DEVICE(RotaryOp);

// x · cos + rotate_half(x) · sin, as transformers writes it, from the same table.
Op aten(const RotaryTable& table) {
  return [=](const Tensors& in) -> Tensors {
    return with_gradients(
        [&](const Tensors& x) -> Tensors {
          const at::ScalarType dtype = x[0].scalar_type();
          const int64_t half = x[0].size(2) / 2;
          auto rows = [&](const at::Tensor& t) {
            const at::Tensor r = t.index_select(0, in[2]).to(dtype).unsqueeze(1);
            return at::cat({r, r}, -1);
          };
          const at::Tensor turned =
              at::cat({x[0].slice(2, half).neg(), x[0].slice(2, 0, half)}, -1);
          return {x[0].mul(rows(table.cos)).add(turned.mul(rows(table.sin)))};
        },
        {in[0]}, in[1]);
  };
}

TEST_P(RotaryOp, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message()
                   << c.tokens << " x " << c.heads << " x " << c.head_dim << " " << dtype);
      const RotaryTable table = rotary_table(100, c.head_dim, {.theta = 1e4}, dtype);
      expect_as_good_as_aten(ours(table), aten(table), inputs(c, dtype));
    }
}

TEST_P(RotaryOp, HasTheSameBitsOnAnyNumberOfThreads) {
  for (auto c : kCases)
    for (auto dtype : kTypes)
      expect_same_bits_on_any_threads([&] {
        const RotaryTable table = rotary_table(100, c.head_dim, {.theta = 1e4}, dtype);
        Tensors out = ours(table)(inputs(c, dtype));
        out.insert(out.end(), {table.cos, table.sin});
        return out;
      });
}

// Interleaved pairs, and elements that are passed on: what one device makes of them the other does.
TEST_P(RotaryOp, FormsAndPassedElementsAreTheHalfFormOnMovedElements) {
  for (auto c : kCases)
    for (auto dtype : kTypes)
      for (int64_t passed : {0, 2, 16}) {
        SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.heads << " x " << c.head_dim
                                          << " " << dtype << ", passed " << passed);
        if (passed >= c.head_dim) continue;
        const int64_t dim = c.head_dim - passed;
        const RotaryTable table = rotary_table(100, dim, {.theta = 1e4}, dtype);
        const Tensors in = inputs(c, dtype);
        // Even elements to the first half, odd ones to the second.
        auto apart = [&](const at::Tensor& x) {
          return x.view({c.tokens, c.heads, dim / 2, 2})
              .transpose(2, 3)
              .contiguous()
              .view({c.tokens, c.heads, dim});
        };
        const at::Tensor x = in[0].slice(2, passed).contiguous(),
                         dy = in[1].slice(2, passed).contiguous();
        const Tensors half = ours(table, RotaryForm::half, passed)(in),
                      pairs = ours(table, RotaryForm::interleaved, passed)(in),
                      plain = ours(table)({x, dy, in[2]}),
                      moved = ours(table)({apart(x), apart(dy), in[2]});
        for (size_t i = 0; i < 2; ++i) {
          // Sums of two products, of which either may be fused: a rounding of up to 8.
          const double apart_by = dtype == at::kDouble  ? 0x1p-49
                                  : dtype == at::kFloat ? 0x1p-20
                                                        : 0x1p-5;
          EXPECT_LE(distance(half[i].slice(2, passed), plain[i]), apart_by);
          EXPECT_LE(distance(apart(pairs[i].slice(2, passed).contiguous()), moved[i]), apart_by);
          for (const at::Tensor& y : {half[i], pairs[i]})
            EXPECT_TRUE(same_bits(y.slice(2, 0, passed).contiguous(),
                                  in[i].slice(2, 0, passed).contiguous()));
        }
      }
}

TEST(RotaryTable, HasTheReferencesRoundingsInFp32AndNoneInFp64) {
  constexpr int64_t kPositions = 300, kDim = 24;
  const RotaryTable f = rotary_table(kPositions, kDim, {.theta = 1e6}, at::kFloat),
                    d = rotary_table(kPositions, kDim, {.theta = 1e6}, at::kDouble);
  EXPECT_EQ(f.cos.scalar_type(), at::kFloat);
  EXPECT_EQ(rotary_table(1, kDim, {.theta = 1e6}, at::kBFloat16).cos.scalar_type(), at::kFloat);
  ASSERT_EQ(d.cos.scalar_type(), at::kDouble);
  const at::Tensor exponent = at::arange(0, kDim, 2, at::kLong).to(at::kFloat).div(kDim);
  const at::Tensor inv_freq =
      exponent.clone().fill_(1).div(at::Tensor(exponent.clone().fill_(1e6)).pow(exponent));
  const at::Tensor angles =
      at::arange(kPositions, at::kLong).to(at::kFloat).unsqueeze(1).matmul(inv_freq.unsqueeze(0));
  EXPECT_TRUE(same_bits(f.cos, angles.cos()));
  EXPECT_TRUE(same_bits(f.sin, angles.sin()));
  double worst = 0;
  for (int64_t p = 0; p < kPositions; ++p)
    for (int64_t i = 0; i < kDim / 2; ++i)
      worst =
          std::max(worst, std::abs(d.sin.const_data_ptr<double>()[p * kDim / 2 + i] -
                                   std::sin(double(p) * std::pow(1e6, -2.0 * double(i) / kDim))));
  EXPECT_LE(worst, 1e-13);
}

TEST(Rotary, NamesThePositionBeyondTheTable) {
  const RotaryTable table = rotary_table(4, 8, {.theta = 1e4}, at::kFloat);
  expect_error(
      [&] {
        rotary(normal({3, 1, 8}, at::kFloat, 1), at::arange(2, 5, at::kLong), table);
      },
      "positions: expected 0 … 3, got 4 at token 2");
}

}  // namespace
}  // namespace conclave::ops
