#include <ATen/Dispatch.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "base/check.h"
#include "ops/adamw.h"
#include "ops/adamw_cuda.h"
#include "ops/blocks.h"
#include "ops/device.h"

namespace conclave::ops {
namespace {

double on_cpu(const at::Tensor& x) {
  constexpr int64_t kBlock = 16384, kLanes = 32;
  const int64_t n = x.numel(), blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "squared_sum", [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    each_block(blocks, kBlock, [&](int64_t block) {
      double lanes[kLanes] =
          {};  // element i of a block goes to lane i mod kLanes, whatever the alignment
      const int64_t begin = block * kBlock, end = std::min(n, begin + kBlock),
                    whole = end - (end - begin) % kLanes;
      auto add = [&](int64_t at, int64_t lane) {
        const double value = static_cast<double>(from[at + lane]);
        lanes[lane] += value * value;
      };
      for (int64_t at = begin; at < whole; at += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) add(at, lane);
      for (int64_t lane = 0; lane < end - whole; ++lane) add(whole, lane);
      double sum = 0;
      for (double part : lanes) sum += part;
      sums[static_cast<size_t>(block)] = sum;
    });
  });
  double sum = 0;
  for (double part : sums) sum += part;
  return sum;
}

}  // namespace

void add_squared_sum_(at::Tensor sum, const at::Tensor& x) {
  TORCH_CHECK(x.defined() && x.is_contiguous(), "x: expected a contiguous tensor");
  CHECK_SHAPE(sum, 1);
  CHECK_DTYPE(sum, at::kDouble);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::add_squared_sum_(sum, x);
  *sum.data_ptr<double>() += on_cpu(x);
}

double squared_sum(const at::Tensor& x) {
  const at::Tensor sum = at::zeros({1}, x.options().dtype(at::kDouble));
  add_squared_sum_(sum, x);
  return sum.item().toDouble();
}

}  // namespace conclave::ops
