// Tensor maps of bf16 matrices for TMA, made on the host and given to a kernel by value.
#pragma once
#include <cuda.h>

#include <cstdint>
#include <initializer_list>

namespace conclave::kernels {

// `sizes` of a contiguous tensor, innermost first (2 or 3), moved in boxes of as many elements; the
// innermost 64 elements of a box, 128 bytes, lie in shared memory in the 128-byte swizzle. What is
// outside of the tensor is read as 0 and not written. data aligned to 16 bytes, the innermost size
// a multiple of 8. Throws RunError where the driver refuses it.
void tensor_map(CUtensorMap* map, const void* data, std::initializer_list<int64_t> sizes,
                std::initializer_list<int> box);

}  // namespace conclave::kernels
