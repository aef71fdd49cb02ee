#include "nn/experts.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace conclave::nn {
namespace {

// Trap 8: the routing weight multiplies down's bias too, as it does all that an expert says.
TEST(Experts, Trap8DownBiasNotWeighted) {
  Unit unit("experts", at::kDouble);
  auto add = [&](const char* name, std::vector<int64_t> shape) -> Weight& {
    return unit.add(name, shape, {{name, shape}}, Init::normal, true);
  };
  Weight &gate_up = add("gate_up", {2, 4, 3}), &down = add("down", {2, 3, 2});
  Weight &gate_up_bias = add("gate_up_bias", {2, 4}), &down_bias = add("down_bias", {2, 3});
  unit.bind(at::arange(unit.layout().numel, at::kDouble).cos());
  unit.bind_grad(at::zeros({unit.layout().numel}, at::kDouble));
  const at::Tensor x = at::arange(12, at::kDouble).sin().view({4, 3});
  const std::vector<int64_t> offsets{0, 1, 4};
  const std::vector<double> weights{0.5, 2, 0, -3};

  // The output, the gradients of the weights and of down's bias for a dy of ones.
  auto run = [&](const at::Tensor& weights) {
    unit.grad().zero_();
    Tape tape;
    const Value w = tape.input(weights);
    const Value y =
        grouped_swiglu(tape, {tape.input(x), w, at::tensor(offsets, at::kLong)},
                       {gate_up, down, &gate_up_bias, &down_bias, ops::Activation::clamped_swiglu});
    tape.seed(y, at::zeros(y.data.sizes(), at::kDouble).fill_(1));
    tape.run_backward();
    tape.run_weight_gradients();
    return std::vector<at::Tensor>{y.data, tape.take_grad(w), down_bias.grad().clone()};
  };
  const auto plain = run(at::zeros({4}, at::kDouble).fill_(1));
  const auto weighted = run(at::tensor(weights, at::kDouble));
  for (int64_t r = 0; r < 4; ++r) {
    const at::Tensor want = plain[0][r].mul(weights[static_cast<size_t>(r)]);
    EXPECT_LT(weighted[0][r].sub(want).abs().max().item().toDouble(), 1e-14) << "row " << r;
    EXPECT_NEAR(weighted[1][r].item().toDouble(), plain[0][r].sum().item().toDouble(), 1e-14);
  }
  for (auto [expert, sum] : {std::pair{0, 0.5}, {1, 2 + 0 - 3.0}})
    for (int64_t i = 0; i < 3; ++i)
      EXPECT_NEAR(weighted[2][expert][i].item().toDouble(), sum, 1e-14);
}

}  // namespace
}  // namespace conclave::nn
