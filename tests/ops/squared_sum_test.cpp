#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "ops/adamw.h"
#include "ops/op_testing.h"

namespace conclave::ops {
namespace {

using testing::normal;

struct SquaredSumOp : testing::EachDevice {};
ON_EACH_DEVICE(SquaredSumOp);

TEST_P(SquaredSumOp, EqualsAtenInFp64) {
  for (auto dtype : testing::kTypes)
    for (int64_t n : {0, 1, 31, 33, 16384, 100'001}) {
      const at::Tensor x = normal({n}, dtype, 6);
      const double expected = x.to(at::kDouble).square().sum().item<double>();
      EXPECT_NEAR(squared_sum(here(x)), expected, 1e-13 * expected) << n << " " << dtype;
      // From an address that no 16-byte access may have, and to what is there.
      at::Tensor sum = here(at::full({1}, 3, at::kDouble));
      add_squared_sum_(
          sum, here(at::full({n + 1}, 1, dtype).copy_(x.sum().expand({n + 1}))).slice(0, 1));
      const double value = x.sum().to(at::kDouble).item<double>();
      EXPECT_NEAR(sum.item<double>(), 3 + double(n) * value * value,
                  1e-12 * (3 + double(n) * value * value));
    }
}

TEST_P(SquaredSumOp, CarriesWhatIsNotFinite) {
  at::Tensor x = at::zeros({20'000});
  x[19'999] = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isinf(squared_sum(here(x))));
  x[3] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(squared_sum(here(x))));
}

}  // namespace
}  // namespace conclave::ops
