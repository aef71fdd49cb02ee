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
double relative_error(const at::Tensor& x_, const at::Tensor& y) {
  const at::Tensor x = x_.cpu();
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

struct AdamWOp : testing::EachDevice {
  State here(const State& s) const { return {place(s.w), place(s.m), place(s.v)}; }
  at::Tensor place(const at::Tensor& x) const { return testing::EachDevice::here(x).clone(); }
};
ON_EACH_DEVICE(AdamWOp);

AdamWStep step_of(int64_t step) {
  return {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = step};
}

// More than a kernel takes at once, of odd lengths.
std::vector<int64_t> many_ranges() {
  std::vector<int64_t> borders;
  for (int64_t i = 0; i < 100; ++i) borders.insert(borders.end(), {197 * i + 3, 197 * i + 3 + i});
  return borders;
}

// Ranges that touch, are empty, cross the borders of blocks, or cover nothing or everything.
std::vector<std::pair<int64_t, std::vector<int64_t>>> cases() {
  return {{0, {}},
          {1, {0, 1}},
          {1000, {}},
          {1000, {0, 10, 10, 20, 30, 30, 999, 1000}},
          {16384, {0, 16384}},
          {50001, {7, 16384, 16384, 40000, 40001, 50001}},
          {20000, many_ranges()}};
}

TEST_P(AdamWOp, EqualsTorchOverTenSteps) {
  for (auto dtype : {at::kDouble, at::kFloat})
    for (auto& [n, ranges] : cases()) {
      State torch{normal({n}, dtype, 1), at::zeros({n}, dtype), at::zeros({n}, dtype)},
          ours = here(torch);
      for (int64_t step = 1; step <= 10; ++step) {
        const at::Tensor g = normal({n}, dtype, 10 + static_cast<uint64_t>(step));
        AdamWStep a = step_of(step);
        a.grad_scale = step % 2 ? 1 : 0.37;
        adamw_(ours.w, ours.m, ours.v, place(g), ranges, a);
        aten_step(torch, g, ranges, a);
      }
      const double allowed = dtype == at::kDouble ? 1e-14 : 2e-6;
      for (auto [x, y] : {std::pair{ours.w, torch.w}, {ours.m, torch.m}, {ours.v, torch.v}})
        EXPECT_LE(relative_error(x, y), allowed) << n << " " << dtype;
    }
}

TEST_P(AdamWOp, SplitMasterTakesTheStepsOfFp32) {
  for (auto& [n, ranges] : cases()) {
    State whole = here({normal({n}, at::kFloat, 2), at::zeros({n}), at::zeros({n})}),
          split = clone(whole);
    at::Tensor hi = place(at::empty({n}, at::kBFloat16)), lo = place(at::empty({n}, at::kShort));
    split_master(whole.w, hi, lo);
    for (int64_t step = 1; step <= 10; ++step) {
      const at::Tensor g = place(normal({n}, at::kFloat, 20 + static_cast<uint64_t>(step)));
      adamw_(whole.w, whole.m, whole.v, g, ranges, step_of(step));
      adamw_split_(hi, lo, split.m, split.v, g, ranges, step_of(step));
    }
    EXPECT_TRUE(at::equal(join_master(hi, lo), whole.w)) << n;
    EXPECT_TRUE(at::equal(split.m, whole.m)) << n;
    EXPECT_TRUE(at::equal(split.v, whole.v)) << n;
    EXPECT_LE(relative_error(hi, whole.w.cpu()), 0x1p-8) << n;
  }
}

// bf16 moments, gradients and weights: each step in fp32 from what they hold, rounded to nearest.
TEST_P(AdamWOp, Bf16StatesAreRoundedAfterAStepInFp32) {
  for (auto& [n, ranges] : cases())
    for (auto moments : {at::kFloat, at::kBFloat16})
      for (auto gradients : {at::kFloat, at::kBFloat16})
        for (bool master : {false, true}) {
          const at::Tensor w = normal({n}, at::kFloat, 2).to(at::kBFloat16),
                           m = normal({n}, moments, 3), v = normal({n}, moments, 4).square(),
                           g = normal({n}, gradients, 5);
          State exact{w.to(at::kFloat), m.to(at::kFloat).clone(), v.to(at::kFloat).clone()};
          adamw_(exact.w, exact.m, exact.v, g.to(at::kFloat), ranges, step_of(3));
          State ours = here({w, m, v});
          at::Tensor lo = place(at::zeros({n}, at::kShort));
          if (master)
            adamw_split_(ours.w, lo, ours.m, ours.v, place(g), ranges, step_of(3));
          else
            adamw_(ours.w, ours.m, ours.v, place(g), ranges, step_of(3));
          SCOPED_TRACE(::testing::Message() << n << " " << moments << " " << gradients << master);
          EXPECT_LE(relative_error(ours.m, exact.m), moments == at::kFloat ? 1e-6 : 0x1p-8);
          EXPECT_LE(relative_error(ours.v, exact.v), moments == at::kFloat ? 1e-6 : 0x1p-8);
          if (master)
            EXPECT_LE(relative_error(join_master(ours.w, lo), exact.w), 1e-6);
          else
            EXPECT_LE(relative_error(ours.w, exact.w), 0x1p-8);
        }
}

// Learning rate, clipping and count on the device: the same bits as from the host, and an update
// that is left out changes nothing.
TEST_P(AdamWOp, ScalarsOnTheDeviceGiveTheSameBits) {
  const int64_t n = 5000;
  const std::vector<int64_t> ranges{100, 3000};
  auto number = [&](double x) { return place(at::full({1}, x, at::kDouble)); };
  State host = here({normal({n}, at::kFloat, 2), at::zeros({n}), at::zeros({n})}),
        device = clone(host);
  at::Tensor steps = place(at::zeros({1}, at::kLong));
  const AdamWRule rule{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  for (int64_t step = 1; step <= 3; ++step) {
    const at::Tensor g = place(normal({n}, at::kFloat, 30 + static_cast<uint64_t>(step)));
    at::Tensor sum = number(0);
    add_squared_sum_(sum, g);
    const at::Tensor scale = clip_scale(sum, number(1), 2.0);
    AdamWStep a = step_of(step);
    a.grad_scale = scale.item().toDouble();
    EXPECT_NEAR(a.grad_scale, 2.0 / (std::sqrt(sum.item().toDouble()) + 1e-6), 1e-15);
    adamw_(host.w, host.m, host.v, g, ranges, a);
    adamw_(device.w, device.m, device.v, g, ranges,
           adamw_scalars(rule, number(a.lr), scale, steps));
    for (double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      EXPECT_TRUE(std::isnan(clip_scale(number(1), number(bad), 2.0).item().toDouble()));
      const at::Tensor none = clip_scale(number(bad), {}, 0);
      EXPECT_TRUE(std::isnan(none.item().toDouble()));
      adamw_(device.w, device.m, device.v, g, ranges,
             adamw_scalars(rule, number(a.lr), none, steps));
    }
    EXPECT_EQ(steps.item().toLong(), step);
  }
  EXPECT_EQ(clip_scale(number(1), {}, 0).item().toDouble(), 1);
  // The powers of the betas may end in other bits on a GPU.
  const double allowed = on_cuda() ? 1e-6 : 0;
  EXPECT_LE(relative_error(device.w, host.w.cpu()), allowed);
  EXPECT_TRUE(at::equal(device.m, host.m));
  EXPECT_TRUE(at::equal(device.v, host.v));
}

TEST_P(AdamWOp, BitsDoNotDependOnThreads) {
  const int64_t n = 200'003;
  const at::Tensor w = normal({n}, at::kFloat, 3), g = normal({n}, at::kFloat, 4);
  testing::expect_same_bits_on_any_threads([&] {
    State s = here({w, at::zeros({n}), at::zeros({n})});
    adamw_(s.w, s.m, s.v, place(g), std::vector<int64_t>{100, 150'000}, step_of(1));
    return std::vector{s.w.cpu(), s.m.cpu(), s.v.cpu(),
                       at::full({1}, squared_sum(place(g)), at::kDouble)};
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
struct SplitMasterOp : testing::EachDevice {
  void expect_exact(const std::vector<uint32_t>& bits) const;
};
ON_EACH_DEVICE(SplitMasterOp);

void SplitMasterOp::expect_exact(const std::vector<uint32_t>& bits) const {
  const at::Tensor master = tensor_of(bits);
  const testing::Tensors got = here([](const testing::Tensors& in) -> testing::Tensors {
    at::Tensor hi = at::empty(in[0].sizes(), in[0].options().dtype(at::kBFloat16)),
               lo = at::empty(in[0].sizes(), in[0].options().dtype(at::kShort));
    split_master(in[0], hi, lo);
    return {hi, join_master(hi, lo)};
  })({master});
  const at::Tensor hi = got[0], joined = got[1];
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

TEST_P(SplitMasterOp, EveryLowHalfAroundEverySpecialValue) {
  for (uint32_t high :
       {0x0000u, 0x0001u, 0x007fu, 0x0080u, 0x3f80u, 0x7f7eu, 0x7f7fu, 0x7f80u, 0x7fffu}) {
    std::vector<uint32_t> bits;
    for (uint32_t sign : {0u, 0x80000000u})
      for (uint32_t low = 0; low < 0x10000; ++low) bits.push_back(sign | high << 16 | low);
    SCOPED_TRACE(high);
    expect_exact(bits);
  }
}

TEST_P(SplitMasterOp, FourMillionRandomPatterns) {
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

}  // namespace
}  // namespace conclave::ops
