#include "ops/gemm.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <limits>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

template <class S, class Out>
void expect_product(bool transa, bool transb, int64_t m, int64_t n, int64_t k) {
  constexpr at::ScalarType type = c10::CppTypeToScalarType<S>::value,
                           out_type = c10::CppTypeToScalarType<Out>::value;
  constexpr int64_t kGap = 3;  // rows are further apart than they are long
  const at::Tensor a =
      normal(transa ? at::IntArrayRef({k, m + kGap}) : at::IntArrayRef({m, k + kGap}), type, 1);
  const at::Tensor b =
      normal(transb ? at::IntArrayRef({n, k + kGap}) : at::IntArrayRef({k, n + kGap}), type, 2);
  at::Tensor c = normal({m, n + kGap}, out_type, 3);
  const at::Tensor before = c.clone(), left = a.to(at::kDouble).slice(1, 0, transa ? m : k),
                   right = b.to(at::kDouble).slice(1, 0, transb ? k : n);
  const at::Tensor exact = at::matmul(transa ? left.t() : left, transb ? right.t() : right)
                               .mul(0.5)
                               .add(before.slice(1, 0, n).to(at::kDouble), 2);
  gemm(transa, transb, m, n, k, Out(0.5), a.const_data_ptr<S>(), a.stride(0), b.const_data_ptr<S>(),
       b.stride(0), Out(2), c.data_ptr<Out>(), c.stride(0));
  EXPECT_LE(distance(c.slice(1, 0, n), exact),
            (type == at::kDouble ? 1e-14 : 1e-6) * double(k + 10));
  EXPECT_TRUE(same_bits(c.slice(1, n).contiguous(), before.slice(1, n).contiguous()));
}

TEST(Gemm, MultipliesStridedMatricesInEveryOrientation) {
  for (bool transa : {false, true})
    for (bool transb : {false, true})
      for (auto [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                             {5, 7, 3},
                             {33, 20, 1100},
                             {4, 6, 0},
                             {0, 3, 2},
                             {3, 0, 2}}) {
        SCOPED_TRACE(::testing::Message()
                     << transa << transb << " " << m << " x " << n << " x " << k);
        expect_product<float, float>(transa, transb, m, n, k);
        expect_product<double, double>(transa, transb, m, n, k);
        expect_product<c10::BFloat16, float>(transa, transb, m, n, k);
      }
}

TEST(Gemm, DoesNotReadTheResultWithBetaZero) {
  const at::Tensor a = normal({4, 600}, at::kBFloat16, 1), b = normal({5, 600}, at::kBFloat16, 2);
  at::Tensor c = at::zeros({4, 5}).fill_(std::numeric_limits<double>::quiet_NaN());
  gemm(false, true, 4, 5, 600, 1.f, a.const_data_ptr<c10::BFloat16>(), 600,
       b.const_data_ptr<c10::BFloat16>(), 600, 0.f, c.data_ptr<float>(), 5);
  EXPECT_FALSE(std::isnan(c.abs().max().item().toDouble()));
}

// The bits of a product must not depend on where its operands begin: row blocks of odd widths begin
// anywhere.
TEST(Gemm, HasTheSameBitsAtAnyAlignment) {
  constexpr int64_t m = 37, n = 53, k = 71;
  const at::Tensor a = normal({m * k + 16}, at::kFloat, 1), b = normal({n * k + 16}, at::kFloat, 2);
  at::Tensor first;
  for (int64_t shift = 0; shift < 16; ++shift) {
    at::Tensor left = at::zeros({m * k + 16}), right = at::zeros({n * k + 16}),
               c = at::zeros({m, n});
    left.slice(0, shift, shift + m * k).copy_(a.slice(0, 0, m * k));
    right.slice(0, 16 - shift, 16 - shift + n * k).copy_(b.slice(0, 0, n * k));
    gemm(false, true, m, n, k, 1.f, left.const_data_ptr<float>() + shift, k,
         right.const_data_ptr<float>() + 16 - shift, k, 0.f, c.data_ptr<float>(), n);
    if (shift == 0) first = c;
    EXPECT_TRUE(same_bits(c, first)) << shift;
  }
}

}  // namespace
}  // namespace conclave::ops
