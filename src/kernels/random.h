// Normal numbers that depend only on (seed, stream, index), as base/random makes them on the CPU:
// Philox4x32-10 and Box–Muller in fp64, two elements a block of random bits.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

// out[j] = stddev · z(begin + j) for j < count, rounded to T (bf16: through fp32, as the CPU's
// weights are). The random bits are the CPU's; logarithm, sine and cosine differ from it in the
// last bits of fp64, so about one float in 10^8 is one ulp apart. T is float, double or bf16.
template <class T>
void fill_normal(T* out, uint64_t seed, uint64_t stream_of, uint64_t begin, uint64_t count,
                 double stddev, cudaStream_t stream);

}  // namespace conclave::kernels
