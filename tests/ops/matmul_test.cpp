#include "ops/matmul.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <limits>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t tokens, in, out;
};
constexpr Case kCases[] = {{0, 8, 4},   {1, 1, 1},       {1, 64, 96},    {520, 33, 1540},
                           {7, 48, 33}, {129, 513, 257}, {300, 72, 1030}};

Op ours(at::ScalarType dtype) {
  return [=](const Tensors& in) -> Tensors {  // x, w, dy
    at::Tensor dw = at::zeros(in[1].sizes(), wide(dtype));
    linear_backward_weight_(dw, in[2], in[0]);
    return {linear(in[0], in[1]), linear_backward_input(in[2], in[1]), dw};
  };
}

Tensors aten(const Tensors& in) {
  return with_gradients([](const Tensors& x) -> Tensors { return {at::matmul(x[0], x[1].t())}; },
                        {in[0], in[1]}, in[2]);
}

TEST(Linear, EqualsAtenInValueAndGradient) {
  for (auto [tokens, in, out] : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << tokens << " x " << in << " x " << out << " " << dtype);
      expect_as_good_as_aten(ours(dtype), aten,
                             {normal({tokens, in}, dtype, 1), normal({out, in}, dtype, 2),
                              normal({tokens, out}, dtype, 3)});
    }
}

TEST(Linear, HasTheSameBitsOnAnyNumberOfThreads) {
  for (auto [tokens, in, out] : kCases)
    for (auto dtype : kTypes)
      expect_same_bits_on_any_threads([&, in = in, out = out, tokens = tokens] {
        return ours(dtype)({normal({tokens, in}, dtype, 1), normal({out, in}, dtype, 2),
                            normal({tokens, out}, dtype, 3)});
      });
}

TEST(Linear, AccumulatesWeightGradients) {
  for (auto dtype : kTypes) {
    const at::Tensor x = normal({40, 24}, dtype, 1), dy = normal({40, 17}, dtype, 2);
    at::Tensor once = at::zeros({17, 24}, wide(dtype)), twice = once.clone(), before = once.clone();
    linear_backward_weight_(once, dy, x);
    linear_backward_weight_(twice, dy, x);
    linear_backward_weight_(twice, dy, x);
    EXPECT_LE(distance(twice, once.mul(2)), 1e-5 * once.abs().max().item().toDouble());
    linear_backward_weight_(before, normal({0, 17}, dtype, 2), normal({0, 24}, dtype, 1));
    EXPECT_TRUE(same_bits(before, at::zeros_like(before)));
  }
}

TEST(Linear, AddsToTheInputsGradient) {
  for (auto dtype : kTypes) {
    const at::Tensor w = normal({17, 24}, dtype, 1), dy = normal({40, 17}, dtype, 2),
                     before = normal({40, 24}, dtype, 3), wide_dy = dy.to(wide(dtype));
    at::Tensor dx = before.clone(), of_router = before.clone();
    linear_backward_input_(dx, dy, w);
    EXPECT_TRUE(same_bits(dx, before.add(linear_backward_input(dy, w))));
    wide_linear_backward_input_(of_router, wide_dy, w);
    EXPECT_TRUE(same_bits(of_router, before.add(wide_linear_backward_input(wide_dy, w))));
  }
}

TEST(WideLinear, GivesLogitsAndTheirGradientsInFp32OrWider) {
  for (auto dtype : kTypes) {
    const at::Tensor x = normal({40, 24}, dtype, 1), w = normal({17, 24}, dtype, 2),
                     dy = normal({40, 17}, wide(dtype), 3);
    at::Tensor dw = at::zeros({17, 24}, wide(dtype)), expected = dw.clone();
    wide_linear_backward_weight_(dw, dy, x);
    linear_backward_weight_(expected, dy, x.to(wide(dtype)));
    EXPECT_TRUE(same_bits(dw, expected));
    EXPECT_TRUE(same_bits(wide_linear(x, w), linear(x.to(wide(dtype)), w.to(wide(dtype)))));
    EXPECT_TRUE(same_bits(wide_linear_backward_input(dy, w),
                          linear_backward_input(dy, w.to(wide(dtype))).to(dtype)));
  }
}

TEST(Linear, AddsABias) {
  for (auto dtype : kTypes) {
    const at::Tensor x = normal({7, 48}, dtype, 1), w = normal({33, 48}, dtype, 2),
                     bias = normal({33}, dtype, 3);
    EXPECT_TRUE(same_bits(linear(x, w, bias), linear(x, w).add_(bias)));
  }
  expect_error(
      [&] {
        linear(normal({4, 8}, at::kFloat, 1), normal({3, 8}, at::kFloat, 1), at::zeros({4}));
      },
      "bias: expected");
}

TEST(Linear, SaysWhatItExpected) {
  const at::Tensor x = normal({4, 8}, at::kFloat, 1);
  expect_error(
      [&] {
        linear(x, normal({3, 7}, at::kFloat, 2));
      },
      "w: expected [out, in] = [3, 8], got [3, 7]");
  expect_error([&] { linear(x, normal({3, 8}, at::kDouble, 2)); }, "w: expected dtype");
  expect_error([&] { linear(x.t(), normal({3, 4}, at::kFloat, 2)); }, "contiguous");
}

const std::vector<std::vector<int64_t>> kOffsets = {
    {0, 0, 0}, {0, 5}, {0, 0, 130, 130, 133, 700, 700}, {0, 1, 2, 3}};

Op grouped_ours(at::ScalarType dtype) {
  return [=](const Tensors& in) -> Tensors {  // x, w, dy, offsets
    at::Tensor dw = at::zeros(in[1].sizes(), wide(dtype));
    grouped_linear_backward_weight_(dw, in[2], in[0], in[3]);
    return {grouped_linear(in[0], in[1], in[3]), grouped_linear_backward_input(in[2], in[1], in[3]),
            dw};
  };
}

Tensors grouped_aten(const Tensors& in) {
  return with_gradients(
      [&](const Tensors& x) -> Tensors {
        const int64_t* o = in[3].const_data_ptr<int64_t>();
        Tensors parts;
        for (int64_t e = 0; e < x[1].size(0); ++e)
          parts.push_back(at::matmul(x[0].slice(0, o[e], o[e + 1]), x[1].select(0, e).t()));
        return {at::cat(parts)};
      },
      {in[0], in[1]}, in[2]);
}

Tensors grouped_inputs(const std::vector<int64_t>& offsets, at::ScalarType dtype) {
  const int64_t experts = static_cast<int64_t>(offsets.size()) - 1, rows = offsets.back();
  return {normal({rows, 40}, dtype, 1), normal({experts, 33, 40}, dtype, 2),
          normal({rows, 33}, dtype, 3), at::tensor(offsets)};
}

TEST(GroupedLinear, EqualsAtenExpertByExpert) {
  for (const auto& offsets : kOffsets)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message()
                   << offsets.size() - 1 << " experts, " << offsets.back() << " rows " << dtype);
      const Tensors inputs = grouped_inputs(offsets, dtype);
      expect_as_good_as_aten(grouped_ours(dtype), grouped_aten, inputs);
      expect_same_bits_on_any_threads([&] { return grouped_ours(dtype)(inputs); });
    }
}

TEST(GroupedLinear, LeavesTheGradientsOfEmptyExpertsAlone) {
  const Tensors in = grouped_inputs({0, 3, 3, 9}, at::kFloat);
  at::Tensor dw = at::zeros({3, 33, 40});
  dw.select(0, 1).fill_(std::numeric_limits<double>::quiet_NaN());
  const at::Tensor before = dw.select(0, 1).clone();
  grouped_linear_backward_weight_(dw, in[2], in[0], in[3]);
  EXPECT_TRUE(same_bits(dw.select(0, 1).contiguous(), before));
}

TEST(GroupedLinear, RefusesOffsetsThatDoNotFit) {
  const Tensors in = grouped_inputs({0, 3, 9}, at::kFloat);
  expect_error(
      [&] {
        grouped_linear(in[0], in[1], at::tensor(std::vector<int64_t>{0, 4, 8}));
      },
      "offsets: expected 0 … 9, got 0 … 8");
  expect_error(
      [&] {
        grouped_linear(in[0], in[1], at::tensor(std::vector<int64_t>{0, 10, 9}));
      },
      "ascending values, got 10 before 9 at expert 1");
}

}  // namespace
}  // namespace conclave::ops
