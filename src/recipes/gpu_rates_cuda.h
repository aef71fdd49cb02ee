// What a GPU reaches in this run: the yardsticks beside a step's parts.
#pragma once
#include <cstdint>

#include "plan/shape.h"

namespace conclave::recipes::cuda {

// Each is the median of twenty calls queued back to back, after some that warm up.

// Floating-point operations a second of a bf16 product [size, size, size] of random numbers.
double gemm_rate(int64_t size);
// Bytes read and written a second by a copy of 1 GiB.
double copy_rate();
// Of cuDNN's causal attention over `rows` of `seq` tokens, forward and backward (3 times the
// forward's operations).
double attention_rate(const plan::LayerShape& layer, int64_t seq, int64_t rows);

}  // namespace conclave::recipes::cuda
