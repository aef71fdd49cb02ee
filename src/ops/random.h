// Normal numbers on a tensor's device, by base/random's generator.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// out[j] = stddev · z(begin + j), z(i) standard normal and of (seed, stream, i) only. out [n] fp32,
// fp64, or bf16 (the fp32 value rounded). The CPU's and CUDA's random bits are the same; logarithm,
// sine and cosine may differ in the last bits of fp64, so about one fp32 value in 10^8 is one ulp
// apart.
void fill_normal_(at::Tensor out, uint64_t seed, uint64_t stream, int64_t begin, double stddev);

}  // namespace conclave::ops
