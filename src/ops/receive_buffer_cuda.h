// ops/receive_buffer.h on CUDA. Private to ops/.
#pragma once
#include "ops/receive_buffer.h"

namespace conclave::ops::cuda {

ReceiveBuffer receive_buffer(const at::Tensor& ids, const at::Tensor& row_of_pair, int64_t local,
                             int64_t ranks);
// out[i] = x[index[i]], for the rows of the buffer that are there, or all.
at::Tensor take_rows(const at::Tensor& x, const at::Tensor& index, const at::Tensor& count);
// Sums of rows[index] between begins; `index` and `count` (a view of one number) may be undefined.
at::Tensor sum_segments(const at::Tensor& rows, const at::Tensor& index, const at::Tensor& begin,
                        const at::Tensor& count);

}  // namespace conclave::ops::cuda
