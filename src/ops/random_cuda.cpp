#include "ops/random_cuda.h"

#include <ATen/Dispatch.h>

#include "kernels/random.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {

void fill_normal_(const at::Tensor& x, uint64_t seed, uint64_t stream, int64_t begin,
                  double stddev) {
  const OnDevice on(x, {});
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "fill_normal", [&] {
    kernels::fill_normal(out<scalar_t>(x), seed, stream, static_cast<uint64_t>(begin),
                         static_cast<uint64_t>(x.numel()), stddev, on);
  });
}

}  // namespace conclave::ops::cuda
