#include "ops/grouped_bias.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  std::vector<int64_t> ends;
  int64_t out;
};
const Case kCases[] = {
    {{0, 0}, 4}, {{0, 1}, 1}, {{0, 2, 2, 7}, 33}, {{0, 0, 130, 130}, 48}, {{0, 90, 260, 300}, 130}};

at::Tensor offsets_of(const Case& c) { return at::tensor(c.ends, at::kLong); }

Tensors inputs(const Case& c, at::ScalarType dtype, bool weighted) {  // y, bias, weights, dy
  const int64_t rows = c.ends.back(), experts = static_cast<int64_t>(c.ends.size()) - 1;
  return {normal({rows, c.out}, dtype, 1), normal({experts, c.out}, dtype, 2),
          weighted ? normal({rows}, wide(dtype), 3) : at::Tensor(),
          normal({rows, c.out}, dtype, 4)};
}

Tensors ours(const Case& c, const Tensors& in) {  // y, dbias, dweights
  const at::Tensor offsets = offsets_of(c), y = in[0].clone();
  at::Tensor dbias = at::zeros(in[1].sizes(), wide(in[1].scalar_type()));
  grouped_bias_(y, in[1], offsets, in[2]);
  grouped_bias_backward_(dbias, in[3], offsets, in[2]);
  if (!in[2].defined()) return {y, dbias};
  return {y, dbias, grouped_bias_backward_weights(in[3], in[1], offsets)};
}

Tensors aten(const Case& c, const Tensors& in) {
  std::vector<int64_t> expert;
  for (size_t e = 0; e + 1 < c.ends.size(); ++e)
    expert.insert(expert.end(), static_cast<size_t>(c.ends[e + 1] - c.ends[e]),
                  static_cast<int64_t>(e));
  const at::Tensor of = at::tensor(expert, at::kLong);
  return with_gradients(
      [&](const Tensors& x) -> Tensors {
        const at::Tensor rows = x[0].index_select(0, of);
        return {x[1].defined() ? in[0].add(rows.mul(x[1].unsqueeze(1))).to(in[0].scalar_type())
                               : in[0].add(rows)};
      },
      {in[1], in[2]}, in[3]);
}

TEST(GroupedBias, EqualsAtenInValueAndGradient) {
  for (const Case& c : kCases)
    for (auto dtype : kTypes)
      for (bool weighted : {false, true}) {
        SCOPED_TRACE(::testing::Message() << c.ends.size() - 1 << " experts x " << c.out << " "
                                          << dtype << (weighted ? " weighted" : ""));
        const Tensors in = inputs(c, dtype, weighted);
        expect_as_good_as_aten([&](const Tensors& x) { return ours(c, x); },
                               [&](const Tensors& x) { return aten(c, x); }, in);
        expect_same_bits_on_any_threads([&] { return ours(c, in); });
      }
}

TEST(GroupedBias, TheGradientAddsUp) {
  const Case c{{0, 1, 3}, 2};
  const Tensors in = inputs(c, at::kDouble, true);
  at::Tensor once = at::zeros({2, 2}, at::kDouble), twice = at::zeros({2, 2}, at::kDouble);
  grouped_bias_backward_(once, in[3], offsets_of(c), in[2]);
  for (int i = 0; i < 2; ++i) grouped_bias_backward_(twice, in[3], offsets_of(c), in[2]);
  EXPECT_TRUE(same_bits(once.mul(2), twice));
}

TEST(GroupedBias, NamesWhatDoesNotFit) {
  const Case c{{0, 1, 3}, 2};
  const Tensors in = inputs(c, at::kFloat, true);
  expect_error([&] { grouped_bias_(in[0], in[1].narrow(1, 0, 1), offsets_of(c), in[2]); },
               "bias: expected [experts, out] = [2, 2], got [2, 1]");
  expect_error(
      [&] {
        grouped_bias_(in[0], in[1], offsets_of({{0, 3, 1}, 2}), in[2]);
      },
      "ascending");
  expect_error([&] { grouped_bias_(in[0], in[1], offsets_of(c), in[2].narrow(0, 0, 2)); },
               "weights: expected [rows] = [3], got [2]");
}

}  // namespace
}  // namespace conclave::ops
