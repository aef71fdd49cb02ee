// ops/random.h on CUDA: operands were checked by their callers. Private to ops/.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops::cuda {

void fill_normal_(const at::Tensor& out, uint64_t seed, uint64_t stream, int64_t begin,
                  double stddev);

}  // namespace conclave::ops::cuda
