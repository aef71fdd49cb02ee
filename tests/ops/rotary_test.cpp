#include "ops/rotary.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <cmath>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t tokens, heads, head_dim;
  RotaryForm form = RotaryForm::half;
  int64_t passed = 0;
  int64_t rotary_dim() const { return head_dim - passed; }
};
constexpr auto kInterleaved = RotaryForm::interleaved;
constexpr Case kCases[] = {{0, 2, 8},
                           {1, 1, 2},
                           {7, 3, 34},
                           {40, 2, 64},
                           {513, 1, 128},
                           {7, 3, 39, RotaryForm::half, 5},
                           {7, 3, 34, kInterleaved},
                           {40, 2, 192, kInterleaved, 128},
                           {513, 1, 9, kInterleaved, 3}};

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
  Op ours(Case c, const RotaryTable& table) const { return ours(table, c.form, c.passed); }
};
ON_EACH_DEVICE(RotaryOp);

// The halves of pairs of x [tokens, heads, dim], each [tokens, heads, dim / 2].
std::pair<at::Tensor, at::Tensor> pairs(const at::Tensor& x, RotaryForm form) {
  const int64_t half = x.size(2) / 2;
  if (form == RotaryForm::half) return {x.slice(2, 0, half), x.slice(2, half)};
  return {x.slice(2, 0, 2 * half, 2), x.slice(2, 1, 2 * half, 2)};
}

// x · cos + (x turned by a quarter) · sin, from the same table.
Op aten(Case c, const RotaryTable& table) {
  return [=](const Tensors& in) -> Tensors {
    return with_gradients(
        [&](const Tensors& x) -> Tensors {
          const at::ScalarType dtype = x[0].scalar_type();
          auto rows = [&](const at::Tensor& t) {
            return t.index_select(0, in[2]).to(dtype).unsqueeze(1);
          };
          const at::Tensor cos = rows(table.cos), sin = rows(table.sin);
          const auto [a, b] = pairs(x[0].slice(2, c.passed), c.form);
          const at::Tensor left = a.mul(cos).sub(b.mul(sin)), right = b.mul(cos).add(a.mul(sin));
          const at::Tensor turned = c.form == RotaryForm::half
                                        ? at::cat({left, right}, 2)
                                        : at::stack({left, right}, 3).flatten(2);
          return {at::cat({x[0].slice(2, 0, c.passed), turned}, 2)};
        },
        {in[0]}, in[1]);
  };
}

TEST_P(RotaryOp, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.heads << " x " << c.head_dim
                                        << " after " << c.passed << " " << dtype);
      const RotaryTable table = rotary_table(100, c.rotary_dim(), {.theta = 1e4}, dtype);
      expect_as_good_as_aten(ours(c, table), aten(c, table), inputs(c, dtype));
    }
}

TEST_P(RotaryOp, HasTheSameBitsOnAnyNumberOfThreads) {
  for (auto c : kCases)
    for (auto dtype : kTypes)
      expect_same_bits_on_any_threads([&] {
        const RotaryTable table = rotary_table(100, c.rotary_dim(), {.theta = 1e4}, dtype);
        Tensors out = ours(c, table)(inputs(c, dtype));
        out.insert(out.end(), {table.cos, table.sin});
        return out;
      });
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

// DeepSeek-V3, Kimi-K2, GPT-OSS, and such as no checkpoint has: ends of the ramp that fall together
// or out of range, mscale of two sizes, a given factor. Frequencies of five pairs and the factor
// are those of transformers 5.17 with its fp32 casts lifted.
TEST(RotaryTable, YarnIsTransformers) {
  struct Yarn {
    int64_t dim;
    RopeConfig config;
    double factor;
    std::vector<std::pair<int64_t, double>> frequencies;
  };
  const std::vector<Yarn> cases = {
      {64,
       {.theta = 1e4,
        .yarn = true,
        .factor = 40,
        .original_positions = 4096,
        .mscale = 1,
        .mscale_all_dim = 1},
       1,
       {{0, 1}, {8, 0.1}, {16, 0.0055}, {24, 2.5e-05}, {31, 3.33380358040831e-06}}},
      {64,
       {.theta = 5e4,
        .yarn = true,
        .factor = 32,
        .original_positions = 4096,
        .beta_fast = 1,
        .mscale = 1,
        .mscale_all_dim = 1},
       1,
       {{8, 0.0668740304976422},
        {16, 0.00447213595499958},
        {24, 9.345929882632628e-06},
        {31, 8.764412911589875e-07}}},
      {64,
       {.theta = 1.5e5, .yarn = true, .factor = 32, .original_positions = 4096, .truncate = false},
       1.3465735902799727,
       {{8, 0.050813274815461475},
        {16, 0.00045648391922324086},
        {24, 4.0999784818029795e-06},
        {31, 3.0235114281192144e-07}}},
      {10,
       {.theta = 100,
        .yarn = true,
        .factor = 4,
        .original_positions = 32,
        .beta_fast = 8,
        .mscale = 0.7,
        .mscale_all_dim = 1.2},
       0.9405715251010841,
       {{0, 1},
        {1, 0.2488169815959358},
        {2, 0.03962232981152783},
        {3, 0.015773933612004833},
        {4, 0.006279716078773949}}},
      {6,
       {.theta = 7,
        .yarn = true,
        .factor = 3,
        .original_positions = 8,
        .truncate = false,
        .attention_factor = 1.3},
       1.3,
       {{0, 1}, {1, 0.17425265285823674}, {2, 0.09109196108439949}}},
      {4,
       {.theta = 1e4, .yarn = true, .factor = 4, .original_positions = 1, .beta_fast = 1},
       1.138629436111989,
       {{0, 1}, {1, 0.0025}}}};
  for (const Yarn& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.dim << " theta " << c.config.theta);
    const RotaryTable d = rotary_table(50, c.dim, c.config, at::kDouble),
                      f = rotary_table(50, c.dim, c.config, at::kFloat);
    ASSERT_EQ(d.cos.scalar_type(), at::kDouble);
    for (int64_t p : {0, 1, 49})
      for (auto [pair, frequency] : c.frequencies) {
        const double cos = c.factor * std::cos(double(p) * frequency),
                     sin = c.factor * std::sin(double(p) * frequency);
        EXPECT_NEAR(d.cos[p][pair].item().toDouble(), cos, 1e-13);
        EXPECT_NEAR(d.sin[p][pair].item().toDouble(), sin, 1e-13);
        EXPECT_NEAR(f.cos[p][pair].item().toDouble(), cos, 1e-5);
        EXPECT_NEAR(f.sin[p][pair].item().toDouble(), sin, 1e-5);
      }
  }
}

// The reference's steps one by one, each rounded to fp32 where it rounds.
TEST(RotaryTable, YarnHasTheReferencesRoundingsInFp32) {
  const RopeConfig c{
      .theta = 1.5e5, .yarn = true, .factor = 32, .original_positions = 4096, .truncate = false};
  const RotaryTable f = rotary_table(300, 64, c, at::kFloat);
  const at::Tensor exponent = at::arange(0, 64, 2, at::kLong).to(at::kFloat).div(64);
  const at::Tensor period = at::Tensor(exponent.clone().fill_(c.theta)).pow(exponent);
  auto pair = [&](double turns) {
    return 64 * std::log(4096 / (turns * 2 * M_PI)) / (2 * std::log(c.theta));
  };
  const double low = pair(32), high = pair(1);
  const at::Tensor ramp = at::arange(32, at::kFloat).sub(low).div(high - low).clamp(0, 1),
                   one = exponent.clone().fill_(1), kept = one.sub(ramp);
  const at::Tensor frequency =
      one.div(period.mul(32)).mul(one.sub(kept)).add(one.div(period).mul(kept));
  const at::Tensor angle = at::arange(300, at::kLong).to(at::kFloat).unsqueeze(1).mul(frequency);
  const double factor = 0.1 * std::log(32.0) + 1;
  EXPECT_TRUE(same_bits(f.cos, angle.cos().mul(factor)));
  EXPECT_TRUE(same_bits(f.sin, angle.sin().mul(factor)));
}

TEST(RotaryTable, MscaleOfYarn) {
  EXPECT_DOUBLE_EQ(yarn_mscale(40, 1), 1.3688879454113936);
  EXPECT_DOUBLE_EQ(yarn_mscale(32, 0.707), 1 + 0.0707 * std::log(32.0));
  EXPECT_EQ(yarn_mscale(1, 5), 1);
  EXPECT_EQ(yarn_mscale(0.5, 5), 1);
}

TEST(RotaryTable, RefusesYarnWithoutItsNumbers) {
  expect_error([] { rotary_table(4, 8, {.yarn = true, .factor = 4}, at::kFloat); },
               "original_positions > 0");
  expect_error([] { rotary_table(4, 7, {}, at::kFloat); }, "an even rotary_dim");
}

TEST(Rotary, NamesThePositionBeyondTheTable) {
  const RotaryTable table = rotary_table(4, 8, {.theta = 1e4}, at::kFloat);
  expect_error(
      [&] {
        rotary(normal({3, 1, 8}, at::kFloat, 1), at::arange(2, 5, at::kLong), table);
      },
      "positions: expected 0 … 3, got 4 at token 2");
  expect_error(
      [&] {
        rotary(normal({1, 1, 8}, at::kFloat, 1), at::arange(1, at::kLong), table, kInterleaved, 3);
      },
      "an even number of rotary elements after the first 3");
}

}  // namespace
}  // namespace conclave::ops
