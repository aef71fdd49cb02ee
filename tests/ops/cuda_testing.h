// What the tests of ops on CUDA share. An op under test takes tensors on the GPU; its reference
// runs on the CPU on the same numbers.
#pragma once
#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include "ops/op_testing.h"

#define CONCLAVE_NEEDS_CUDA() \
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device"

namespace conclave::ops::testing {

inline Tensors moved(const Tensors& tensors, at::DeviceType device) {
  Tensors out;
  for (const at::Tensor& t : tensors) out.push_back(t.defined() ? t.to(device) : t);
  return out;
}

// Memory that the next allocations get back holds NaN in every floating type, so what an op leaves
// unwritten shows.
inline void poison_freed_cuda_memory() {
  Tensors large, small;
  for (int i = 0; i < 4; ++i)
    large.push_back(
        at::empty({int64_t{32} << 20}, at::TensorOptions().dtype(at::kByte).device(at::kCUDA))
            .fill_(0xFF));
  for (int i = 0; i < 64; ++i)
    small.push_back(
        at::empty({int64_t{128} << 10}, at::TensorOptions().dtype(at::kByte).device(at::kCUDA))
            .fill_(0xFF));
}

// `op` on copies of its inputs on the GPU, its results back on the CPU.
inline Op on_cuda(const Op& op) {
  return [=](const Tensors& inputs) {
    poison_freed_cuda_memory();
    return moved(op(moved(inputs, at::kCUDA)), at::kCPU);
  };
}

// The results of `op` (results on the CPU) are as close to those of `reference` in fp64 as
// reference in the inputs' type is, times 3, plus `roundings` of bf16 or 1e-5 of fp32 of the
// largest element (sums are taken in another order), plus `absolute`.
inline void expect_as_good_as_cpu(const Op& op, const Op& reference, const Tensors& inputs,
                                  double roundings = 1, double absolute = 0) {
  Tensors wide;
  at::ScalarType type = at::kFloat;
  for (const at::Tensor& t : inputs) {
    if (t.defined() && t.scalar_type() == at::kBFloat16) type = at::kBFloat16;
    wide.push_back(t.defined() && t.is_floating_point() ? t.to(at::kDouble) : t);
  }
  const Tensors got = op(inputs), theirs = reference(inputs), exact = reference(wide);
  ASSERT_EQ(got.size(), exact.size());
  for (size_t i = 0; i < got.size(); ++i) {
    SCOPED_TRACE("result " + std::to_string(i));
    ASSERT_EQ(got[i].defined(), exact[i].defined());
    if (!got[i].defined() || got[i].numel() == 0) continue;
    ASSERT_EQ(got[i].sizes(), exact[i].sizes());
    const double largest = exact[i].to(at::kDouble).abs().max().item().toDouble();
    const double allowed = 3 * distance(theirs[i], exact[i]) +
                           (type == at::kBFloat16 ? roundings * 0x1p-8 : 1e-5) * largest + absolute;
    EXPECT_LE(distance(got[i], exact[i]), allowed) << type << ", largest " << largest;
  }
}

}  // namespace conclave::ops::testing
