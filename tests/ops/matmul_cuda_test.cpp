#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "ops/cuda_testing.h"
#include "ops/grouped_bias.h"
#include "ops/matmul.h"

namespace conclave::ops {
namespace {
using namespace testing;

constexpr at::ScalarType kCudaTypes[] = {at::kFloat, at::kBFloat16};

Tensors dense(const Tensors& in) {  // x, w, dy
  at::Tensor dw = at::zeros(in[1].sizes(), in[1].options().dtype(wide(in[1].scalar_type())));
  at::Tensor sum = at::zeros({in[1].size(0)}, dw.options());
  linear_backward_weight_(dw, in[2], in[0]);
  linear_backward_weight_(dw, in[2], in[0]);
  column_sum_(sum, in[2]);
  const at::Tensor bias = in[1].select(1, 0).contiguous();
  at::Tensor dx = in[0].clone();
  linear_backward_input_(dx, in[2], in[1]);
  return {linear(in[0], in[1]),
          linear(in[0], in[1], bias),
          linear_backward_input(in[2], in[1]),
          dw,
          sum,
          dx};
}

TEST(LinearCuda, EqualsTheCpu) {
  CONCLAVE_NEEDS_CUDA();
  struct Case {
    int64_t tokens, in, out;
  };
  for (auto [tokens, in, out] :
       {Case{0, 8, 4}, Case{1, 1, 1}, Case{1, 64, 96}, Case{520, 33, 1540}, Case{300, 72, 1030}})
    for (auto dtype : kCudaTypes) {
      SCOPED_TRACE(::testing::Message() << tokens << " x " << in << " x " << out << " " << dtype);
      expect_as_good_as_cpu(on_cuda(dense), dense,
                            {normal({tokens, in}, dtype, 1), normal({out, in}, dtype, 2),
                             normal({tokens, out}, dtype, 3)});
    }
}

TEST(LinearCuda, KeepsFp32SumsOfBf16Gradients) {
  CONCLAVE_NEEDS_CUDA();
  const at::Tensor x = normal({64, 32}, at::kBFloat16, 1).cuda(),
                   dy = normal({64, 16}, at::kBFloat16, 2).cuda();
  at::Tensor sum = at::zeros({16, 32}, x.options().dtype(at::kFloat)).fill_(1024);
  const at::Tensor product = at::mm(dy.t().to(at::kDouble), x.to(at::kDouble));
  linear_backward_weight_(sum, dy, x);
  EXPECT_LE(distance(sum.cpu().sub(1024), product.cpu()), 1e-3);  // bf16 beside 1024 would lose 4
  at::Tensor narrow = at::zeros({16, 32}, x.options());
  linear_backward_weight_(narrow, dy, x);
  EXPECT_LE(distance(narrow.cpu(), product.cpu()), 0x1p-7 * product.abs().max().item().toDouble());
}

Tensors wide_products(const Tensors& in) {  // x, w, dy
  const at::ScalarType sums = wide(in[0].scalar_type());
  at::Tensor dw = at::zeros(in[1].sizes(), in[1].options().dtype(sums));
  const at::Tensor dy = in[2].to(sums);
  wide_linear_backward_weight_(dw, dy, in[0]);
  at::Tensor dx = in[0].clone();
  wide_linear_backward_input_(dx, dy, in[1]);
  return {wide_linear(in[0], in[1]), wide_linear_backward_input(dy, in[1]), dw, dx};
}

TEST(WideLinearCuda, RoundsNothingOnTheWay) {
  CONCLAVE_NEEDS_CUDA();
  for (auto dtype : kCudaTypes) {
    const Tensors in = {normal({300, 72}, dtype, 1), normal({33, 72}, dtype, 2),
                        normal({300, 33}, at::kFloat, 3)};
    const Tensors got = on_cuda(wide_products)(in);
    Tensors exact;
    for (const at::Tensor& t : in) exact.push_back(t.to(at::kDouble));
    exact = wide_products(exact);
    for (size_t i : {0, 2})
      EXPECT_LE(distance(got[i], exact[i]), 2e-5 * exact[i].abs().max().item().toDouble()) << i;
    for (size_t i : {1, 3}) {
      EXPECT_EQ(got[i].scalar_type(), dtype);
      EXPECT_LE(distance(got[i], exact[i]),
                (dtype == at::kFloat ? 1e-5 : 0x1p-8) * exact[i].abs().max().item().toDouble());
    }
  }
}

// Offsets as each device wants them.
at::Tensor offsets_for(const std::vector<int64_t>& offsets, const at::Tensor& like) {
  const at::Tensor o = at::tensor(offsets);
  return like.is_cuda() ? o.to(at::kCUDA, at::kInt) : o;
}

Op grouped(const std::vector<int64_t>& offsets) {
  return [=](const Tensors& in) -> Tensors {  // x, w, dy, bias, weights
    const at::Tensor o = offsets_for(offsets, in[0]);
    const auto sums = in[1].options().dtype(wide(in[1].scalar_type()));
    at::Tensor dw = at::zeros(in[1].sizes(), sums), dbias = at::zeros(in[3].sizes(), sums);
    const at::Tensor weights = in[4].to(wide(in[0].scalar_type()));
    grouped_linear_backward_weight_(dw, in[2], in[0], o);
    grouped_bias_backward_(dbias, in[2], o, weights);
    at::Tensor y = grouped_linear(in[0], in[1], o), plain = y.clone();
    grouped_bias_(y, in[3], o, weights);
    grouped_bias_(plain, in[3], o, {});
    return {y,  plain, grouped_linear_backward_input(in[2], in[1], o),
            dw, dbias, grouped_bias_backward_weights(in[2], in[3], o)};
  };
}

Tensors grouped_inputs(const std::vector<int64_t>& offsets, int64_t in, int64_t out,
                       at::ScalarType dtype) {
  const int64_t experts = static_cast<int64_t>(offsets.size()) - 1, rows = offsets.back();
  return {normal({rows, in}, dtype, 1), normal({experts, out, in}, dtype, 2),
          normal({rows, out}, dtype, 3), normal({experts, out}, dtype, 4),
          normal({rows}, dtype, 5)};
}

const std::vector<std::vector<int64_t>> kGroups = {
    {0, 0, 0}, {0, 5}, {0, 0, 130, 130, 133, 700, 700}, {0, 1, 2, 3}, {0, 512, 512}};

TEST(GroupedLinearCuda, EqualsTheCpu) {
  CONCLAVE_NEEDS_CUDA();
  for (const auto& offsets : kGroups)
    for (auto [in, out] : {std::pair<int64_t, int64_t>{40, 33}, {64, 136}, {20, 24}})
      for (auto dtype : kCudaTypes) {
        SCOPED_TRACE(::testing::Message() << offsets.size() - 1 << " experts, " << offsets.back()
                                          << " rows, " << in << " x " << out << " " << dtype);
        expect_as_good_as_cpu(on_cuda(grouped(offsets)), grouped(offsets),
                              grouped_inputs(offsets, in, out, dtype));
      }
}

// Rows for which the layout has no expert: nothing of them reaches a gradient, whatever they hold.
TEST(GroupedLinearCuda, IgnoresRowsPastTheLastExpert) {
  CONCLAVE_NEEDS_CUDA();
  const std::vector<int64_t> offsets = {0, 3, 3, 50};
  for (auto dtype : kCudaTypes) {
    Tensors in = grouped_inputs(offsets, 64, 48, dtype), padded = in;
    for (size_t i : {0, 2, 4}) {
      auto sizes = in[i].sizes().vec();
      sizes[0] = 80;
      padded[i] = at::empty(sizes, in[i].options()).fill_(std::numeric_limits<double>::quiet_NaN());
      padded[i].slice(0, 0, 50).copy_(in[i]);
    }
    const Tensors few = on_cuda(grouped(offsets))(in), many = on_cuda(grouped(offsets))(padded);
    for (size_t i = 0; i < few.size(); ++i) {
      SCOPED_TRACE(i);
      const at::Tensor used = many[i].sizes() == few[i].sizes() ? many[i] : many[i].slice(0, 0, 50);
      EXPECT_LE(distance(used, few[i]),
                1e-6 * few[i].to(at::kDouble).abs().max().item().toDouble());
    }
  }
}

TEST(GroupedLinearCuda, AddsInBf16AndLeavesEmptyExpertsAlone) {
  CONCLAVE_NEEDS_CUDA();
  const std::vector<int64_t> offsets = {0, 3, 3, 9};
  const Tensors in = moved(grouped_inputs(offsets, 64, 48, at::kBFloat16), at::kCUDA);
  const at::Tensor o = offsets_for(offsets, in[0]);
  for (auto dtype : {at::kFloat, at::kBFloat16}) {
    at::Tensor once = at::zeros({3, 48, 64}, in[0].options().dtype(dtype)), twice = once.clone();
    twice.select(0, 1).fill_(std::numeric_limits<double>::quiet_NaN());
    grouped_linear_backward_weight_(once, in[2], in[0], o);
    grouped_linear_backward_weight_(twice, in[2], in[0], o);
    grouped_linear_backward_weight_(twice, in[2], in[0], o);
    EXPECT_TRUE(twice.select(0, 1).isnan().all().item().toBool());
    for (int64_t e : {0, 2})
      EXPECT_LE(distance(twice.select(0, e).cpu(), once.select(0, e).mul(2).cpu()),
                0x1p-7 * once.abs().max().item().toDouble());
  }
}

// A gradient of more than one piece (ops/matmul_cuda.h).
TEST(GroupedLinearCuda, MakesLargeGradientsInPieces) {
  CONCLAVE_NEEDS_CUDA();
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA);
  const at::Tensor x = normal({24, 8192}, at::kBFloat16, 1).to(options),
                   dy = normal({24, 8392}, at::kBFloat16, 2).to(options);
  const at::Tensor o = at::tensor(std::vector<int64_t>{0, 7, 24}).to(at::kCUDA, at::kInt);
  at::Tensor dw = at::zeros({2, 8392, 8192}, options.dtype(at::kFloat));
  grouped_linear_backward_weight_(dw, dy, x, o);
  const std::vector<int64_t> ends = {0, 7, 24};
  for (int64_t e = 0; e < 2; ++e) {
    const at::Tensor exact = at::mm(dy.slice(0, ends[e], ends[e + 1]).t().to(at::kFloat),
                                    x.slice(0, ends[e], ends[e + 1]).to(at::kFloat));
    EXPECT_LE(exact.sub(dw.select(0, e)).abs().max().item().toDouble(),
              0x1p-8 * exact.abs().max().item().toDouble());
  }
}

}  // namespace
}  // namespace conclave::ops
