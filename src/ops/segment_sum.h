// Sums of chosen rows.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// rows [n, hidden], index [m] int64 in 0 … n−1, offsets [segments + 1] int64, ascending from 0 to
// m → [segments, hidden]: Σ over i in offsets[s] … offsets[s+1) of rows[index[i]], added up in that
// order in fp32 or wider and rounded once; 0 for an empty segment. `index` undefined: the rows
// themselves, n = m. Moves (m + segments) · hidden elements. Gradient: row index[i] gets its
// segment's.
at::Tensor segment_sum(const at::Tensor& rows, const at::Tensor& index, const at::Tensor& offsets);

}  // namespace conclave::ops
