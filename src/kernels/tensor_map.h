// Tensor maps of matrices for TMA, made on the host and given to a kernel by value.
#pragma once
#include <cuda.h>

#include <cstdint>
#include <initializer_list>

namespace conclave::kernels {

enum class MapOf { bf16, fp32 };

// `sizes` of a contiguous tensor, innermost first (2 or 3), moved in boxes of as many elements; a
// box's innermost elements, 128 bytes, lie in shared memory in the 128-byte swizzle. What is
// outside of the tensor is read as 0 and not written. data and the innermost size in bytes are
// multiples of 16 bytes. Throws RunError where the driver refuses it.
void tensor_map(CUtensorMap* map, const void* data, std::initializer_list<int64_t> sizes,
                std::initializer_list<int> box, MapOf elements = MapOf::bf16);

}  // namespace conclave::kernels
