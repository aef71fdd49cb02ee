#include "ops/random.h"

#include <ATen/ops/empty.h>

#include "base/check.h"
#include "base/random.h"
#include "ops/device.h"
#include "ops/random_cuda.h"

namespace conclave::ops {

void fill_normal_(at::Tensor out, uint64_t seed, uint64_t stream, int64_t begin, double stddev) {
  const int64_t n = out.numel();
  CHECK_SHAPE(out, n);
  TORCH_CHECK(begin >= 0, "begin: expected 0 or more, got ", begin);
  if constexpr (kCudaBuild)
    if (out.is_cuda()) return cuda::fill_normal_(out, seed, stream, begin, stddev);
  const auto first = static_cast<uint64_t>(begin), count = static_cast<uint64_t>(n);
  if (out.scalar_type() == at::kDouble) {
    fill_normal(out.data_ptr<double>(), seed, stream, first, count, stddev);
  } else if (out.scalar_type() == at::kFloat) {
    fill_normal(out.data_ptr<float>(), seed, stream, first, count, stddev);
  } else {
    CHECK_DTYPE(out, at::kBFloat16);
    at::Tensor exact = at::empty({n}, out.options().dtype(at::kFloat));
    fill_normal(exact.data_ptr<float>(), seed, stream, first, count, stddev);
    out.copy_(exact);
  }
}

}  // namespace conclave::ops
