#include "ops/grouped_mlp.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include "ops/grouped_bias.h"
#include "ops/matmul.h"
#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

TEST(GroupedUp, IsItsParts) {
  const at::Tensor offsets = at::tensor(std::vector<int64_t>{0, 3, 3, 10}),
                   index = whole({10}, 6, 1).to(at::kInt);
  for (auto dtype : kTypes)
    for (auto activation : {Activation::swiglu, Activation::clamped_swiglu}) {
      const at::Tensor x = normal({6, 20}, dtype, 2), w = normal({3, 12, 20}, dtype, 3),
                       bias = normal({3, 12}, dtype, 4), weights = normal({10}, wide(dtype), 5);
      const auto [gate_up, act] = grouped_up(x, index, w, bias, weights, offsets, activation);
      at::Tensor expected = grouped_linear(at::index_select(x, 0, index), w, offsets);
      grouped_bias_(expected, bias, offsets, {});
      EXPECT_TRUE(same_bits(gate_up, expected));
      EXPECT_TRUE(same_bits(act, swiglu(expected, weights, activation)));
    }
}

TEST(GroupedUp, SaysWhatItExpected) {
  const at::Tensor offsets = at::tensor(std::vector<int64_t>{0, 2, 4}),
                   x = normal({4, 8}, at::kFloat, 1), w = normal({2, 6, 8}, at::kFloat, 2);
  expect_error(
      [&] { grouped_up(x, {}, w, {}, {}, offsets, Activation::swiglu, GroupedKernel::fused); },
      "expected bf16 on Hopper");
  expect_error(
      [&] { grouped_up(x, {}, w, {}, normal({3}, at::kFloat, 3), offsets, Activation::swiglu); },
      "weights: expected [rows] = [4]");
}

}  // namespace
}  // namespace conclave::ops
