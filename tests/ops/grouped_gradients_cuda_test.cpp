// The experts' gradients by our kernels: odd shapes against the CPU, what must stay as it is,
// launch limits.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "kernels/grouped_weight.h"
#include "ops/cuda_testing.h"
#include "ops/matmul.h"

namespace conclave::ops {
namespace {
using namespace testing;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Case {
  int64_t in, out;
  std::vector<int64_t> loads;
};
// Empty experts, one row, fewer rows than a stage, tails of rows, of columns and of depth, more
// tiles than a band, widths that only the weight gradient's kernel takes (72 x 136) or none (20 x
// 30).
const std::vector<Case> kCases = {
    {256, 256, {0, 1, 130, 300, 0, 77}},
    {64, 256, {64, 0, 0, 257, 128}},
    {320, 448, {5}},
    {192, 320, {0, 0, 0}},
    {2304, 256, {1500, 31}},
    {768, 2048, {15, 16, 17, 63, 64, 65}},
    {2880, 320, {17, 128, 129, 0}},
    {72, 136, {100, 0, 3}},
    {20, 30, {9, 0, 70}},
};

std::vector<int64_t> ends_of(const std::vector<int64_t>& loads) {
  std::vector<int64_t> ends{0};
  for (int64_t n : loads) ends.push_back(ends.back() + n);
  return ends;
}

at::Tensor offsets_for(const std::vector<int64_t>& loads, const at::Tensor& like) {
  const at::Tensor o = at::tensor(ends_of(loads));
  return like.is_cuda() ? o.to(at::kCUDA, at::kInt) : o;
}

// x, w, dy, and what dw begins with.
Tensors inputs(const Case& c) {
  const auto experts = static_cast<int64_t>(c.loads.size());
  const int64_t rows = ends_of(c.loads).back();
  return {normal({rows, c.in}, at::kBFloat16, 1), normal({experts, c.out, c.in}, at::kBFloat16, 2),
          normal({rows, c.out}, at::kBFloat16, 3),
          normal({experts, c.out, c.in}, at::kBFloat16, 4).mul_(8)};
}

// dx; dw in fp32; dw in bf16 where the device adds there.
Op gradients(const std::vector<int64_t>& loads) {
  return [=](const Tensors& in) -> Tensors {
    const at::Tensor offsets = offsets_for(loads, in[0]);
    at::Tensor wide = in[3].to(testing::wide(in[3].scalar_type())),
               narrow = in[0].is_cuda() ? in[3].clone() : wide.clone();
    grouped_linear_backward_weight_(wide, in[2], in[0], offsets);
    grouped_linear_backward_weight_(narrow, in[2], in[0], offsets);
    return {grouped_linear_backward_input(in[2], in[1], offsets), wide,
            narrow.to(in[3].scalar_type())};
  };
}

TEST(GroupedGradientsCuda, EqualTheCpu) {
  CONCLAVE_NEEDS_CUDA();
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message()
                 << c.in << " x " << c.out << ", " << c.loads.size() << " experts");
    expect_as_good_as_cpu(on_cuda(gradients(c.loads)), gradients(c.loads), inputs(c));
  }
}

// In fp32 nothing is rounded to bf16 on the way.
TEST(GroupedGradientsCuda, KeepFp32Sums) {
  CONCLAVE_NEEDS_CUDA();
  const Case c{256, 192, {100, 0, 300}};
  const Tensors in = inputs(c);
  Tensors wide;
  for (const at::Tensor& t : in) wide.push_back(t.to(at::kDouble));
  kernels::GroupedWeight p{};
  p.fp32 = true, p.out = c.out, p.in = c.in, p.experts = 3;
  if (!kernels::grouped_weight_supported(p)) GTEST_SKIP() << "at::_grouped_mm rounds to bf16";
  const at::Tensor got = on_cuda(gradients(c.loads))(in)[1], exact = gradients(c.loads)(wide)[1];
  EXPECT_LE(distance(got, exact), 1e-5 * exact.abs().max().item().toDouble());
}

// Rows past the last expert's hold NaN, and so does the gradient of an expert without rows.
TEST(GroupedGradientsCuda, LeaveAloneWhatIsNotTheirs) {
  CONCLAVE_NEEDS_CUDA();
  for (const Case& c : {Case{256, 192, {33, 0, 64, 1}}, Case{320, 576, {0, 130, 0, 0}}}) {
    const int64_t rows = ends_of(c.loads).back(), room = rows + 150;
    Tensors in = inputs(c);
    const Tensors few = on_cuda(gradients(c.loads))(in);
    for (size_t i : {0, 2}) {
      at::Tensor more = at::full({room, in[i].size(1)}, kNaN, in[i].options());
      more.slice(0, 0, rows).copy_(in[i]);
      in[i] = more;
    }
    for (size_t e = 0; e < c.loads.size(); ++e)
      if (c.loads[e] == 0) in[3].select(0, static_cast<int64_t>(e)).fill_(kNaN);
    const Tensors many = on_cuda(gradients(c.loads))(in);
    EXPECT_TRUE(same_bits(many[0].slice(0, 0, rows).contiguous(), few[0]));
    for (size_t e = 0; e < c.loads.size(); ++e)
      for (size_t i : {1, 2}) {
        const auto expert = static_cast<int64_t>(e);
        const at::Tensor got = many[i].select(0, expert);
        if (c.loads[e] == 0)
          EXPECT_TRUE(got.isnan().all().item().toBool());
        else
          EXPECT_TRUE(same_bits(got.contiguous(), few[i].select(0, expert).contiguous()));
      }
  }
}

// The same bits on any number of multiprocessors, and nothing behind dw is touched.
TEST(GroupedGradientsCuda, WeightKernelKeepsToItsTensor) {
  CONCLAVE_NEEDS_CUDA();
  const Case c{200, 328, {70, 0, 257}};
  const Tensors in = moved(inputs(c), at::kCUDA);
  const at::Tensor offsets = offsets_for(c.loads, in[0]);
  const int64_t size = in[3].numel(), behind = 4096;
  for (bool fp32 : {false, true}) {
    at::Tensor first;
    for (int sms : {0, 1, 5}) {
      at::Tensor dw =
          at::full({size + behind}, kNaN, in[3].options().dtype(fp32 ? at::kFloat : at::kBFloat16));
      dw.slice(0, 0, size).copy_(in[3].view({-1}));
      kernels::GroupedWeight p{};
      p.dy = in[2].const_data_ptr(), p.x = in[0].const_data_ptr();
      p.offsets = offsets.const_data_ptr<int32_t>();
      p.dw = dw.data_ptr(), p.fp32 = fp32;
      p.rows = in[0].size(0), p.out = c.out, p.in = c.in;
      p.experts = static_cast<int>(c.loads.size());
      if (!kernels::grouped_weight_supported(p)) GTEST_SKIP() << "no Hopper device";
      kernels::grouped_weight(p, c10::cuda::getCurrentCUDAStream(), sms);
      const at::Tensor got = dw.cpu();
      EXPECT_TRUE(got.slice(0, size).isnan().all().item().toBool());
      EXPECT_FALSE(got.slice(0, 0, size).isnan().any().item().toBool());
      if (!first.defined()) first = got;
      EXPECT_TRUE(same_bits(got, first)) << sms << " multiprocessors";
    }
  }
}

TEST(GroupedGradientsCuda, TakeAddressesThatAreNotAligned) {
  CONCLAVE_NEEDS_CUDA();
  const Case c{64, 128, {70, 9}};
  const Tensors in = moved(inputs(c), at::kCUDA), expected = gradients(c.loads)(in);
  Tensors shifted;
  for (const at::Tensor& t : in) {
    at::Tensor room = at::empty({t.numel() + 1}, t.options());
    shifted.push_back(room.slice(0, 1).view(t.sizes()).copy_(t));
  }
  const at::Tensor offsets = offsets_for(c.loads, in[0]);
  EXPECT_LE(distance(grouped_linear_backward_input(shifted[2], shifted[1], offsets).cpu(),
                     expected[0].cpu()),
            0x1p-7 * expected[0].abs().max().item().toDouble());
  grouped_linear_backward_weight_(shifted[3], shifted[2], shifted[0], offsets);
  EXPECT_LE(distance(shifted[3].cpu(), expected[2].cpu()),
            0x1p-6 * expected[2].abs().max().item().toDouble());
}

}  // namespace
}  // namespace conclave::ops
