#include "ops/op_testing.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace conclave::ops::testing {
namespace {

double rounding(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? 0x1p-8 : dtype == at::kFloat ? 0x1p-24 : 0x1p-53;
}

double largest(const at::Tensor& x) {
  return x.numel() == 0 ? 0 : x.to(at::kDouble).abs().max().item().toDouble();
}

Tensors converted(const Tensors& inputs, at::ScalarType dtype) {
  Tensors out;
  for (const at::Tensor& x : inputs)
    out.push_back(x.defined() && x.is_floating_point() ? x.to(dtype) : x);
  return out;
}

// While it lives, at::empty fills what it allocates. (libtorch's deterministic mode, which only
// warns of other things.)
class Poison {
 public:
  Poison() {
    const char* said = std::getenv("CONCLAVE_POISON");
    if (said && std::string(said) == "off") return;
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(true);
  }
  ~Poison() { at::globalContext().setDeterministicAlgorithms(false, false); }
  Poison(const Poison&) = delete;
};

}  // namespace

void EachDevice::SetUp() {
#ifdef CONCLAVE_CUDA
  if (on_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no GPU here";
#else
  if (on_cuda()) GTEST_SKIP() << "built without CUDA";
#endif
}

at::Tensor EachDevice::here(const at::Tensor& x) const {
  return x.defined() ? x.to(GetParam()) : x;
}

Op EachDevice::here(Op op) const {
  return [this, op](const Tensors& inputs) {
    Tensors there;
    for (const at::Tensor& x : inputs) there.push_back(x.defined() ? here(x).clone() : x);
    Tensors results;
    {
      const Poison poison;
      results = op(there);
    }
    for (at::Tensor& y : results)
      if (y.defined()) y = y.cpu();
    return results;
  };
}

at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype, uint64_t seed) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::kDouble).to(dtype);
}

at::Tensor whole(at::IntArrayRef sizes, int64_t end, uint64_t seed) {
  return at::randint(end, sizes, at::detail::createCPUGenerator(seed), at::kLong);
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  if (a.numel() == 0) return 0;
  const double d = largest(a.to(at::kDouble).sub(b.to(at::kDouble)));
  return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}

void expect_as_good_as_aten(const Op& op, const Op& reference, const Tensors& inputs, double slack,
                            double operands) {
  const Tensors got = op(inputs), theirs = reference(inputs),
                exact = reference(converted(inputs, at::kDouble));
  ASSERT_EQ(got.size(), exact.size());
  bool all_double = true;
  for (const at::Tensor& x : inputs)
    all_double &= !x.defined() || !x.is_floating_point() || x.scalar_type() == at::kDouble;
  for (size_t i = 0; i < got.size(); ++i) {
    SCOPED_TRACE("result " + std::to_string(i));
    ASSERT_EQ(got[i].sizes(), exact[i].sizes());
    if (!got[i].is_floating_point()) {
      EXPECT_TRUE(same_bits(got[i], theirs[i]));
      continue;
    }
    const double allowed = 3 * distance(theirs[i], exact[i]) +
                           (all_double ? slack : 2) * rounding(got[i].scalar_type()) *
                               std::max(largest(exact[i]), operands);
    EXPECT_LE(distance(got[i], exact[i]), allowed)
        << got[i].scalar_type() << ", largest " << largest(exact[i]);
  }
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && a.is_contiguous() &&
         b.is_contiguous() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

void expect_same_bits_on_any_threads(const std::function<Tensors()>& op) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensors one = op();
  for (int threads : {2, 4}) {
    at::set_num_threads(threads);
    const Tensors many = op();
    ASSERT_EQ(one.size(), many.size());
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(same_bits(one[i], many[i])) << "result " << i << " on " << threads << " threads";
  }
  at::set_num_threads(before);
}

Tensors with_gradients(const Op& op, const Tensors& inputs, const at::Tensor& seed) {
  Tensors leaves, wanted;
  for (const at::Tensor& x : inputs) {
    leaves.push_back(x.defined() ? x.detach() : x);
    if (x.defined() && x.is_floating_point()) wanted.push_back(leaves.back().requires_grad_());
  }
  Tensors out = op(leaves);
  const Tensors gradients =
      torch::autograd::grad({out[0]}, wanted, {seed.to(out[0].scalar_type())});
  for (at::Tensor& y : out) y = y.detach();
  out.insert(out.end(), gradients.begin(), gradients.end());
  return out;
}

void expect_error(const std::function<void()>& f, const std::string& part) {
  try {
    f();
    ADD_FAILURE() << "expected an error with: " << part;
  } catch (const c10::Error& e) {
    EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos)
        << e.what_without_backtrace();
  }
}

}  // namespace conclave::ops::testing
