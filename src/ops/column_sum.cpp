#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/util/Exception.h>

#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/matmul.h"
#include "ops/matmul_cuda.h"

namespace conclave::ops {

void column_sum_(at::Tensor sum, const at::Tensor& dy) {
  const int64_t tokens = dy.size(0), out = dy.size(1);
  TORCH_CHECK(sum.sizes() == at::IntArrayRef({out}), "sum: expected [out] = [", out, "], got ",
              sum.sizes());
  if constexpr (kCudaBuild)
    if (dy.is_cuda()) return cuda::column_sum_(sum, dy);
  constexpr int64_t kColumns = 64;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dy.scalar_type(), "column_sum_", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const scalar_t* from = dy.const_data_ptr<scalar_t>();
    acc_t* to = sum.data_ptr<acc_t>();
    each_block((out + kColumns - 1) / kColumns, tokens * kColumns, [&](int64_t block) {
      const int64_t begin = block * kColumns, end = std::min(out, begin + kColumns);
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t c = begin; c < end; ++c) to[c] += static_cast<acc_t>(from[t * out + c]);
    });
  });
}

}  // namespace conclave::ops
