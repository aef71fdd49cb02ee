// The second stage of sums that many blocks share: partial rows become one.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

// out[c] = Σ_b parts[b, c], or out[c] += where `add`; b ascends in 32 strands whose sums are added
// in order. parts [blocks, columns]. blocks = 0: zeros.
template <class A>
void sum_parts(A* out, const A* parts, int64_t blocks, int64_t columns, bool add,
               cudaStream_t stream);

}  // namespace conclave::kernels
