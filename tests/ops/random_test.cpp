#include "ops/random.h"

#include <ATen/ops/empty.h>

#include "base/random.h"
#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct FillNormalOp : EachDevice {
  at::Tensor filled(int64_t n, at::ScalarType dtype, int64_t begin) const {
    return here([=](const Tensors& in) -> Tensors {
      at::Tensor x = at::empty({n}, in[0].options().dtype(dtype));
      fill_normal_(x, 7, 11, begin, 0.02);
      return {x};
    })({at::empty({1})})[0];
  }
};
ON_EACH_DEVICE(FillNormalOp);

TEST_P(FillNormalOp, EqualsBaseRandomUpToTheLastBit) {
  for (int64_t n : {0, 1, 2, 1001, 300'000})
    for (int64_t begin : {int64_t{0}, int64_t{1}, int64_t{5'000'000'001}}) {
      SCOPED_TRACE(::testing::Message() << n << " from " << begin);
      at::Tensor exact = at::empty({n}, at::kDouble), single = at::empty({n});
      fill_normal(exact.data_ptr<double>(), 7, 11, static_cast<uint64_t>(begin),
                  static_cast<uint64_t>(n), 0.02);
      fill_normal(single.data_ptr<float>(), 7, 11, static_cast<uint64_t>(begin),
                  static_cast<uint64_t>(n), 0.02);
      EXPECT_LE(distance(filled(n, at::kDouble, begin), exact), 1e-16);
      const at::Tensor floats = filled(n, at::kFloat, begin);
      EXPECT_LE(floats.ne(single).sum().item().toLong(), on_cuda() ? 1 : 0);
      EXPECT_LE(distance(floats, single), 0x1p-27);  // one ulp of 0.1
      EXPECT_LE(filled(n, at::kBFloat16, begin).ne(single.to(at::kBFloat16)).sum().item().toLong(),
                on_cuda() ? 1 : 0);
    }
}

TEST_P(FillNormalOp, AnyPartHasTheSameBits) {
  const at::Tensor whole = filled(1000, at::kFloat, 0);
  for (int64_t begin : {0, 1, 7, 500})
    EXPECT_TRUE(same_bits(filled(333, at::kFloat, begin), whole.slice(0, begin, begin + 333)));
}

}  // namespace
}  // namespace conclave::ops
