// ops/mla.h on CUDA: operands were checked by their callers. Private to ops/.
#pragma once
#include "ops/mla.h"

namespace conclave::ops::cuda {

// The results, allocated, are filled; false: not done, as a width is no multiple of 16 bytes.
bool mla_keys_values(const MlaKeysValues& to, const at::Tensor& kv, const at::Tensor& k_rope);
bool mla_keys_values_backward(const at::Tensor& dkv, const at::Tensor& dk, const at::Tensor& dv,
                              int64_t rope);

}  // namespace conclave::ops::cuda
