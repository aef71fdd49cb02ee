// The fused first product of the experts: odd shapes against the CPU, unwritten rows, launch
// limits, and the seam's choice.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "kernels/grouped_gemm_swiglu.h"
#include "ops/cuda_testing.h"
#include "ops/grouped_mlp.h"

namespace conclave::ops {
namespace {
using namespace testing;

bool on_hopper() {
  kernels::GroupedSwiglu p{};
  p.hidden = 640, p.ffn = 64, p.experts = 1;
  return at::hasCUDA() && kernels::grouped_swiglu_supported(p);
}
#define CONCLAVE_NEEDS_HOPPER() \
  if (!on_hopper()) GTEST_SKIP() << "no Hopper device, or its code is not in this build"

struct UpCase {
  int64_t hidden, ffn;
  std::vector<int64_t> loads;
  bool indexed = true, weighted = true;
};
const std::vector<UpCase> kUpCases = {
    {640, 256, {0, 1, 130, 300, 0, 77}},        // empty experts, one row, tails of rows
    {704, 192, {64, 0, 0, 257, 128}},           // a tail of columns; 11 k blocks
    {640, 576, {5}},                            // fewer rows than a warp's
    {640, 128, {0, 0, 0}},                      // nothing at all
    {704, 192, {200, 0, 700, 3}, false, true},  // rows in place
    {640, 448, {900, 1, 515, 64}, true, false},
    {1024, 320, {1500, 31}},
    {2880, 64, {17, 128, 129}},
    {768, 1536, {16, 15, 1, 0, 2048}},  // more n tiles than a band
};

std::vector<int64_t> ends_of(const std::vector<int64_t>& loads) {
  std::vector<int64_t> ends{0};
  for (int64_t n : loads) ends.push_back(ends.back() + n);
  return ends;
}

// x, w, bias, weights, index. Values of gate and up reach past GPT-OSS's clamps.
Tensors up_inputs(const UpCase& c, bool biased) {
  const int64_t experts = static_cast<int64_t>(c.loads.size()), rows = ends_of(c.loads).back(),
                tokens = c.indexed ? 50 : rows;
  return {normal({tokens, c.hidden}, at::kBFloat16, 1),
          normal({experts, 2 * c.ffn, c.hidden}, at::kBFloat16, 2).mul_(0.15),
          biased ? normal({experts, 2 * c.ffn}, at::kBFloat16, 3) : at::Tensor(),
          c.weighted ? normal({rows}, at::kFloat, 4).abs() : at::Tensor(),
          c.indexed ? whole({rows}, tokens, 5) : at::Tensor()};
}

Op up(const std::vector<int64_t>& loads, Activation activation, GroupedKernel kernel) {
  return [=](const Tensors& in) -> Tensors {
    const bool cuda = in[0].is_cuda();
    at::Tensor offsets = at::tensor(ends_of(loads));
    if (cuda) offsets = offsets.to(at::kCUDA, at::kInt);
    const at::Tensor index = in[4].defined() ? in[4].to(at::kInt) : at::Tensor();
    auto [gate_up, act] =
        grouped_up(in[0], index, in[1], in[2], in[3], offsets, activation, kernel);
    return {gate_up, act};
  };
}

TEST(GroupedUpCuda, FusedEqualsTheCpu) {
  CONCLAVE_NEEDS_HOPPER();
  for (const UpCase& c : kUpCases)
    for (auto activation : {Activation::swiglu, Activation::clamped_swiglu})
      for (bool biased : {false, true}) {
        if (biased && activation == Activation::swiglu) continue;
        SCOPED_TRACE(::testing::Message()
                     << "hidden " << c.hidden << " ffn " << c.ffn << " experts " << c.loads.size()
                     << (biased ? " biased" : "") << " form " << static_cast<int>(activation));
        expect_as_good_as_cpu(on_cuda(up(c.loads, activation, GroupedKernel::fused)),
                              up(c.loads, activation, GroupedKernel::aten), up_inputs(c, biased));
      }
}

TEST(GroupedUpCuda, FusedEqualsAtenOnTheGpu) {
  CONCLAVE_NEEDS_HOPPER();
  const UpCase c{2048, 768, {1000, 0, 24, 3000}};
  const Tensors in = up_inputs(c, false);
  const Tensors fused = on_cuda(up(c.loads, Activation::swiglu, GroupedKernel::fused))(in),
                aten = on_cuda(up(c.loads, Activation::swiglu, GroupedKernel::aten))(in);
  for (size_t i : {0, 1}) {
    const double largest = aten[i].to(at::kDouble).abs().max().item().toDouble();
    EXPECT_LE(distance(fused[i], aten[i]), 0x1p-7 * largest);
  }
}

TEST(GroupedUpCuda, HasTheSameBitsEachTime) {
  CONCLAVE_NEEDS_HOPPER();
  const UpCase c{2048, 768, {1000, 0, 24, 3000, 7}};
  for (auto activation : {Activation::swiglu, Activation::clamped_swiglu}) {
    const Tensors in = moved(up_inputs(c, activation == Activation::clamped_swiglu), at::kCUDA);
    const Op op = up(c.loads, activation, GroupedKernel::fused);
    const Tensors first = moved(op(in), at::kCPU);
    for (int i = 0; i < 5; ++i) {
      const Tensors again = moved(op(in), at::kCPU);
      EXPECT_TRUE(same_bits(first[0], again[0]) && same_bits(first[1], again[1]));
    }
  }
}

// The kernel itself on buffers with room left: what is past the last row keeps its bits, on any
// number of multiprocessors.
TEST(GroupedUpCuda, WritesItsRowsAndNoOthers) {
  CONCLAVE_NEEDS_HOPPER();
  const UpCase c{640, 192, {33, 0, 200, 1}};
  const int64_t rows = ends_of(c.loads).back(), room = rows + 37;
  for (auto form : {kernels::GatedForm::halves, kernels::GatedForm::interleaved}) {
    const bool interleaved = form == kernels::GatedForm::interleaved;
    const Tensors in = moved(up_inputs(c, interleaved), at::kCUDA);
    const at::Tensor offsets = at::tensor(ends_of(c.loads)).to(at::kCUDA, at::kInt),
                     index = in[4].to(at::kInt);
    Tensors first;
    for (int sms : {0, 1, 5}) {
      const auto bytes = at::TensorOptions().dtype(at::kByte).device(at::kCUDA);
      at::Tensor gate_up =
          at::full({room * 2 * c.ffn * 2}, 0xA5, bytes).view(at::kBFloat16).view({room, 2 * c.ffn});
      at::Tensor act =
          at::full({room * c.ffn * 2}, 0xA5, bytes).view(at::kBFloat16).view({room, c.ffn});
      const at::Tensor before = act.slice(0, rows).clone().cpu();
      kernels::GroupedSwiglu p{in[0].const_data_ptr(),
                               index.const_data_ptr<int32_t>(),
                               offsets.const_data_ptr<int32_t>(),
                               in[3].const_data_ptr<float>(),
                               in[1].const_data_ptr(),
                               interleaved ? in[2].const_data_ptr() : nullptr,
                               gate_up.data_ptr(),
                               act.data_ptr(),
                               room,
                               c.hidden,
                               c.ffn,
                               static_cast<int>(c.loads.size())};
      kernels::grouped_swiglu(p, form, c10::cuda::getCurrentCUDAStream(), sms);
      const Tensors got = {gate_up.cpu(), act.cpu()};
      EXPECT_TRUE(same_bits(got[1].slice(0, rows).contiguous(), before));
      EXPECT_TRUE(same_bits(got[0].slice(0, rows).contiguous(),
                            at::full({37 * 2 * c.ffn * 2}, 0xA5, at::kByte)
                                .view(at::kBFloat16)
                                .view({37, 2 * c.ffn})));
      if (first.empty()) first = got;
      EXPECT_TRUE(same_bits(got[0], first[0]) && same_bits(got[1], first[1]))
          << sms << " multiprocessors";
    }
  }
}

TEST(GroupedUpCuda, PassesNotANumberOn) {
  CONCLAVE_NEEDS_HOPPER();
  const UpCase c{640, 64, {40}};
  Tensors in = up_inputs(c, true);
  in[0].select(0, in[4][3].item().toLong()).fill_(std::numeric_limits<double>::quiet_NaN());
  for (auto activation : {Activation::swiglu, Activation::clamped_swiglu}) {
    Tensors with = in;
    if (activation == Activation::swiglu) with[2] = at::Tensor();
    const Tensors got = on_cuda(up(c.loads, activation, GroupedKernel::fused))(with);
    EXPECT_TRUE(got[0][3].isnan().all().item().toBool() && got[1][3].isnan().all().item().toBool());
  }
}

TEST(GroupedUpCuda, FallsBackOnWidthsItDoesNotDo) {
  CONCLAVE_NEEDS_CUDA();
  const UpCase c{72, 40, {3, 0, 9}};
  for (auto activation : {Activation::swiglu, Activation::clamped_swiglu})
    expect_as_good_as_cpu(on_cuda(up(c.loads, activation, GroupedKernel::automatic)),
                          up(c.loads, activation, GroupedKernel::aten), up_inputs(c, true));
  expect_error(
      [&] { on_cuda(up(c.loads, Activation::swiglu, GroupedKernel::fused))(up_inputs(c, false)); },
      "hidden a multiple of 64");
}

}  // namespace
}  // namespace conclave::ops
