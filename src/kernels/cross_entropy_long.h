// The softmax pass over rows of bf16 that are too long for a block each. Private to kernels/.
#pragma once
#include "kernels/cross_entropy.h"

namespace conclave::kernels {

// As cross_entropy with a gradient. Returns false, nothing done, where rows are short or not
// aligned or the GPU has less shared memory than Hopper.
bool cross_entropy_long(double* losses, bf16* logits, const int64_t* labels, double seed,
                        const CrossEntropySizes& s, cudaStream_t stream);

}  // namespace conclave::kernels
