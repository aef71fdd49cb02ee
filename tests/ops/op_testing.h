// What the tests of ops share: inputs from a seed, comparison with ATen relative to ATen's own
// error, equal bits on any number of threads, one list of cases for the CPU and a GPU. An op under
// test is a function from a list of tensors to a list of tensors (values and gradients alike).
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace conclave::ops::testing {

using Tensors = std::vector<at::Tensor>;
using Op = std::function<Tensors(const Tensors&)>;

// fp64, fp32 and bf16: the types every op is tested in.
inline constexpr at::ScalarType kTypes[] = {at::kDouble, at::kFloat, at::kBFloat16};
inline at::ScalarType wide(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? at::kFloat : dtype;
}

// Normal numbers; the same for the same seed and sizes, and a narrower dtype holds the rounded
// values.
at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype, uint64_t seed);
// Whole numbers 0 … end−1.
at::Tensor whole(at::IntArrayRef sizes, int64_t end, uint64_t seed);

// The largest |a − b|; inf if one of them is not finite where the other is.
double distance(const at::Tensor& a, const at::Tensor& b);

// The results of `op` are as close to those of `reference` run on the inputs as fp64 as `reference`
// run on the inputs themselves is, times 3, plus two roundings of the largest element in the
// result's dtype. For fp64 inputs the second term is `slack` roundings, since there the reference
// has only itself. `operands`: where a result can be small because larger numbers cancel, their
// size, which counts then. Shapes must be equal; dtypes of floating results may differ from the
// reference's (a gradient in fp32 for bf16 weights).
void expect_as_good_as_aten(const Op& op, const Op& reference, const Tensors& inputs,
                            double slack = 64, double operands = 0);

// Every result has the same bits for 1, 2 and 4 threads.
void expect_same_bits_on_any_threads(const std::function<Tensors()>& op);
bool same_bits(const at::Tensor& a, const at::Tensor& b);

// outputs and, for each of `inputs`, the gradient of Σ outputs[0] · seed by libtorch's autograd.
Tensors with_gradients(const Op& op, const Tensors& inputs, const at::Tensor& seed);

// EXPECT that `f` throws a c10::Error whose message contains `part`.
void expect_error(const std::function<void()>& f, const std::string& part);

// Tests that run on the CPU and on a GPU, which are skipped, saying why, where there is none:
//   struct RmsNormOp : EachDevice {};
//   ON_EACH_DEVICE(RmsNormOp);
//   TEST_P(RmsNormOp, EqualsAten) { expect_as_good_as_aten(here(ours), aten, inputs()); }
// References run on the CPU.
class EachDevice : public ::testing::TestWithParam<at::DeviceType> {
 protected:
  void SetUp() override;
  bool on_cuda() const { return GetParam() == at::kCUDA; }
  at::Tensor here(const at::Tensor& x) const;  // on this device; undefined stays so
  // The op on this device: copies of the inputs go there, the results come back. Memory that it
  // allocates is filled with NaN first (integers: their largest), unless CONCLAVE_POISON=off.
  Op here(Op op) const;
};
#define ON_EACH_DEVICE(Suite)                                                             \
  INSTANTIATE_TEST_SUITE_P(, Suite, ::testing::Values(at::kCPU, at::kCUDA), [](auto& i) { \
    return i.param == at::kCPU ? std::string("CPU") : std::string("CUDA");                \
  })

}  // namespace conclave::ops::testing
