#include "ops/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <bit>
#include <cmath>
#include <random>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {

using testing::normal;

struct State {
  at::Tensor w, m, v;
};

State clone(const State& s) { return {s.w.clone(), s.m.clone(), s.v.clone()}; }

// torch/optim/adamw.py, _single_tensor_adam with decoupled_weight_decay, on the elements begin …
// end.
void aten_step(const State& s, const at::Tensor& g, int64_t begin, int64_t end, double weight_decay,
               const AdamWStep& a) {
  at::Tensor w = s.w.slice(0, begin, end), m = s.m.slice(0, begin, end),
             v = s.v.slice(0, begin, end);
  const at::Tensor grad = g.slice(0, begin, end) * a.grad_scale;
  w.mul_(1 - a.lr * weight_decay);
  m.lerp_(grad, 1 - a.beta1);
  v.mul_(a.beta2).addcmul_(grad, grad, 1 - a.beta2);
  const double bc1 = 1 - std::pow(a.beta1, a.step), bc2 = 1 - std::pow(a.beta2, a.step);
  w.addcdiv_(m, (v.sqrt() / std::sqrt(bc2)).add_(a.eps), -(a.lr / bc1));
}

// max |x − y| / max |y|.
double relative_error(const at::Tensor& x, const at::Tensor& y) {
  return x.numel() == 0 ? 0 : testing::distance(x, y) / y.abs().max().item().toDouble();
}

// Decay on the ranges, none between them.
void aten_step(const State& s, const at::Tensor& g, const std::vector<int64_t>& ranges,
               const AdamWStep& a) {
  int64_t at = 0;
  for (size_t i = 0; i < ranges.size(); i += 2) {
    aten_step(s, g, at, ranges[i], 0, a);
    aten_step(s, g, ranges[i], ranges[i + 1], a.weight_decay, a);
    at = ranges[i + 1];
  }
  aten_step(s, g, at, s.w.numel(), 0, a);
}

AdamWStep step_of(int64_t step) {
  return {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = step};
}

// Ranges that touch, are empty, cross the borders of blocks, or cover nothing or everything.
std::vector<std::pair<int64_t, std::vector<int64_t>>> cases() {
  return {{0, {}},
          {1, {0, 1}},
          {1000, {}},
          {1000, {0, 10, 10, 20, 30, 30, 999, 1000}},
          {16384, {0, 16384}},
          {50001, {7, 16384, 16384, 40000, 40001, 50001}}};
}

TEST(AdamW, EqualsTorchOverTenSteps) {
  for (auto dtype : {at::kDouble, at::kFloat})
    for (auto& [n, ranges] : cases()) {
      State ours{normal({n}, dtype, 1), at::zeros({n}, dtype), at::zeros({n}, dtype)},
          torch = clone(ours);
      for (int64_t step = 1; step <= 10; ++step) {
        const at::Tensor g = normal({n}, dtype, 10 + static_cast<uint64_t>(step));
        AdamWStep a = step_of(step);
        a.grad_scale = step % 2 ? 1 : 0.37;
        adamw_(ours.w, ours.m, ours.v, g, ranges, a);
        aten_step(torch, g, ranges, a);
      }
      const double allowed = dtype == at::kDouble ? 1e-14 : 2e-6;
      for (auto [x, y] : {std::pair{ours.w, torch.w}, {ours.m, torch.m}, {ours.v, torch.v}})
        EXPECT_LE(relative_error(x, y), allowed) << n << " " << dtype;
    }
}

TEST(AdamW, SplitMasterTakesTheStepsOfFp32) {
  for (auto& [n, ranges] : cases()) {
    State whole{normal({n}, at::kFloat, 2), at::zeros({n}), at::zeros({n})}, split = clone(whole);
    at::Tensor hi = at::empty({n}, at::kBFloat16), lo = at::empty({n}, at::kShort);
    split_master(whole.w, hi, lo);
    for (int64_t step = 1; step <= 10; ++step) {
      const at::Tensor g = normal({n}, at::kFloat, 20 + static_cast<uint64_t>(step));
      adamw_(whole.w, whole.m, whole.v, g, ranges, step_of(step));
      adamw_split_(hi, lo, split.m, split.v, g, ranges, step_of(step));
    }
    EXPECT_TRUE(at::equal(join_master(hi, lo), whole.w)) << n;
    EXPECT_TRUE(at::equal(split.m, whole.m)) << n;
    EXPECT_TRUE(at::equal(split.v, whole.v)) << n;
    EXPECT_LE(relative_error(hi, whole.w), 0x1p-8) << n;
  }
}

TEST(AdamW, Bf16IsTheFp32StepRounded) {
  const int64_t n = 5000;
  const std::vector<int64_t> ranges{7, 4000};
  const auto narrow = [](const at::Tensor& t) { return t.to(at::kBFloat16); };
  State ours{narrow(normal({n}, at::kFloat, 1)), narrow(at::zeros({n})), narrow(at::zeros({n}))};
  at::Tensor hi = ours.w.clone(), lo = at::zeros({n}, at::kShort), m = ours.m.clone(),
             v = ours.v.clone();
  State mixed{ours.w.clone(), at::zeros({n}), at::zeros({n})};
  for (int64_t step = 1; step <= 5; ++step) {
    const at::Tensor g = normal({n}, at::kFloat, 10 + static_cast<uint64_t>(step));
    const auto widened = [](const State& s) {
      return State{s.w.to(at::kFloat), s.m.to(at::kFloat).clone(), s.v.to(at::kFloat).clone()};
    };
    State expected = widened(ours), with_fp32_moments = widened(mixed),
          master = widened({join_master(hi, lo), m, v});
    adamw_(expected.w, expected.m, expected.v, g, ranges, step_of(step));
    adamw_(ours.w, ours.m, ours.v, g, ranges, step_of(step));
    EXPECT_TRUE(at::equal(ours.w, narrow(expected.w)));
    EXPECT_TRUE(at::equal(ours.m, narrow(expected.m)));
    EXPECT_TRUE(at::equal(ours.v, narrow(expected.v)));
    adamw_(with_fp32_moments.w, with_fp32_moments.m, with_fp32_moments.v, g, ranges, step_of(step));
    adamw_(mixed.w, mixed.m, mixed.v, g, ranges, step_of(step));
    EXPECT_TRUE(at::equal(mixed.w, narrow(with_fp32_moments.w)));
    EXPECT_TRUE(at::equal(mixed.v, with_fp32_moments.v));
    adamw_(master.w, master.m, master.v, g, ranges, step_of(step));
    adamw_split_(hi, lo, m, v, g, ranges, step_of(step));
    EXPECT_TRUE(at::equal(join_master(hi, lo), master.w));
    EXPECT_TRUE(at::equal(m, narrow(master.m)));
  }
}

TEST(AdamW, BitsDoNotDependOnThreads) {
  const int64_t n = 200'003;
  const at::Tensor w = normal({n}, at::kFloat, 3), g = normal({n}, at::kFloat, 4);
  testing::expect_same_bits_on_any_threads([&] {
    State s{w.clone(), at::zeros({n}), at::zeros({n})};
    adamw_(s.w, s.m, s.v, g, std::vector<int64_t>{100, 150'000}, step_of(1));
    return std::vector{s.w, s.m, s.v, at::full({1}, squared_sum(g), at::kDouble)};
  });
}

TEST(AdamW, RefusesWhatItCannotDo) {
  at::Tensor w = at::zeros({8}), m = at::zeros({8}), v = at::zeros({8}), g = at::zeros({8});
  EXPECT_THROW(adamw_(w, m, v, at::zeros({7}), {}, step_of(1)), c10::Error);
  EXPECT_THROW(adamw_(w, m, v, at::zeros({8}, at::kDouble), {}, step_of(1)), c10::Error);
  EXPECT_THROW(adamw_(w, m, v, g, {}, step_of(0)), c10::Error);
  for (const std::vector<int64_t>& ranges : {std::vector<int64_t>{0, 9}, {4, 2}, {0, 4, 3, 8}, {0}})
    EXPECT_THROW(adamw_(w, m, v, g, ranges, step_of(1)), c10::Error);
}

uint32_t bits_of(const at::Tensor& x, int64_t i) {
  return std::bit_cast<uint32_t>(x.const_data_ptr<float>()[i]);
}

at::Tensor tensor_of(const std::vector<uint32_t>& bits) {
  at::Tensor x = at::empty({static_cast<int64_t>(bits.size())}, at::kFloat);
  std::copy(bits.begin(), bits.end(), static_cast<uint32_t*>(x.data_ptr()));
  return x;
}

// Every value but a NaN comes back bit for bit, also those whose bf16 half is rounded up to
// infinity; a NaN stays one, and its bf16 half is no number either.
void expect_exact(const std::vector<uint32_t>& bits) {
  const at::Tensor master = tensor_of(bits), hi = at::empty(master.sizes(), at::kBFloat16),
                   lo = at::empty(master.sizes(), at::kShort);
  split_master(master, hi, lo);
  const at::Tensor joined = join_master(hi, lo);
  int64_t wrong = 0;
  for (int64_t i = 0; i < master.numel(); ++i) {
    const float value = master.const_data_ptr<float>()[i],
                half = hi.const_data_ptr<at::BFloat16>()[i];
    if (std::isnan(value)) {
      wrong += !std::isnan(joined.const_data_ptr<float>()[i]) || std::isfinite(half);
      continue;
    }
    wrong += bits_of(joined, i) != bits_of(master, i);
    // Half up in magnitude: the nearest bf16, away from zero on a tie.
    const uint32_t nearest = (bits_of(master, i) + 0x8000u) & 0xffff0000u;
    wrong += std::bit_cast<uint32_t>(half) != nearest;
  }
  EXPECT_EQ(wrong, 0);
}

TEST(SplitMaster, EveryLowHalfAroundEverySpecialValue) {
  for (uint32_t high :
       {0x0000u, 0x0001u, 0x007fu, 0x0080u, 0x3f80u, 0x7f7eu, 0x7f7fu, 0x7f80u, 0x7fffu}) {
    std::vector<uint32_t> bits;
    for (uint32_t sign : {0u, 0x80000000u})
      for (uint32_t low = 0; low < 0x10000; ++low) bits.push_back(sign | high << 16 | low);
    SCOPED_TRACE(high);
    expect_exact(bits);
  }
}

TEST(SplitMaster, FourMillionRandomPatterns) {
  std::mt19937 random(5);
  std::vector<uint32_t> bits(4'000'000);
  for (uint32_t& b : bits) b = static_cast<uint32_t>(random());
  expect_exact(bits);
}

TEST(SplitMaster, InfinityStaysAndLargestFiniteComesBack) {
  const float inf = std::numeric_limits<float>::infinity(),
              largest = std::numeric_limits<float>::max();
  const at::Tensor master = tensor_of({std::bit_cast<uint32_t>(inf), std::bit_cast<uint32_t>(-inf),
                                       std::bit_cast<uint32_t>(largest)});
  at::Tensor hi = at::empty({3}, at::kBFloat16), lo = at::empty({3}, at::kShort);
  split_master(master, hi, lo);
  EXPECT_TRUE(std::isinf(hi[2].item<float>()));  // the weight that a model would see
  EXPECT_TRUE(at::equal(join_master(hi, lo), master));
}

TEST(SquaredSum, EqualsAtenInFp64) {
  for (auto dtype : testing::kTypes)
    for (int64_t n : {0, 1, 31, 33, 16384, 100'001}) {
      const at::Tensor x = normal({n}, dtype, 6);
      const double expected = x.to(at::kDouble).square().sum().item<double>();
      EXPECT_NEAR(squared_sum(x), expected, 1e-13 * expected) << n << " " << dtype;
    }
}

TEST(SquaredSum, CarriesWhatIsNotFinite) {
  at::Tensor x = at::zeros({20'000});
  x[19'999] = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isinf(squared_sum(x)));
  x[3] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(squared_sum(x)));
}

}  // namespace
}  // namespace conclave::ops
