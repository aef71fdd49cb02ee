// The gathers of ops/dispatch.h on CUDA: operands were checked by their callers. Private to ops/.
#pragma once
#include "ops/dispatch.h"

namespace conclave::ops::cuda {

at::Tensor gather_rows(const at::Tensor& x, const ExpertLayout& layout);
at::Tensor gather_sum(const at::Tensor& rows, const ExpertLayout& layout);
// out[i] = from.flat[index[i]], with index's shape, int32.
at::Tensor gather_elements(const at::Tensor& from, const at::Tensor& index);

}  // namespace conclave::ops::cuda
