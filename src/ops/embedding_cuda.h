// ops/embedding.h on CUDA: shapes were checked by their callers; an id outside of the vocabulary
// stops the device. Private to ops/.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops::cuda {

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight);
// dweight of dy's type, or of fp32 or wider.
void embedding_backward_(at::Tensor dweight, const at::Tensor& ids, const at::Tensor& dy,
                         int64_t padding);

}  // namespace conclave::ops::cuda
