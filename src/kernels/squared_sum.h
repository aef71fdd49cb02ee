// Σ x² in fp64.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

// *sum += Σ x², fixed blocks in fixed order; inf or NaN in x give inf or NaN. T is float, double or
// bf16; parts is scratch [squared_sum_parts(n)]. Bytes: x once.
template <class T>
void squared_sum(double* sum, double* parts, const T* x, int64_t n, cudaStream_t stream);
int64_t squared_sum_parts(int64_t n);

// *sum += Σ from[0 … n), in 1024 strands whose sums are added in fixed order.
void add_sum(double* sum, const double* from, int64_t n, cudaStream_t stream);

}  // namespace conclave::kernels
