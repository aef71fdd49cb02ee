// ops/rotary.h and ops/head_norm_rotary.h on CUDA: operands were checked by their callers; a
// position outside of the table stops the device. Private to ops/.
#pragma once
#include "ops/head_norm_rotary.h"

namespace conclave::ops::cuda {

// `back`: the transposed rotation.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
                  RotaryForm form, int64_t passed, bool back);

HeadNormRotary head_norm_rotary(const QueryKey& x, const QueryKey& weight, double eps,
                                const at::Tensor& positions, const RotaryTable& table);
at::Tensor head_norm_rotary_from(const at::Tensor& x, const at::Tensor& rstd,
                                 const at::Tensor& weight, const at::Tensor& positions,
                                 const RotaryTable& table);
HeadNormRotaryGrad head_norm_rotary_backward(const QueryKey& dy, const QueryKey& x,
                                             const QueryKey& rstd, const QueryKey& weight,
                                             const at::Tensor& positions, const RotaryTable& table);

}  // namespace conclave::ops::cuda
