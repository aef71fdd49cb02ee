// Values from one floating-point type to another.
#pragma once
#include <c10/core/ScalarType.h>

#include <cstdint>

namespace conclave::checkpoint {

// True for equal types and between fp16, bf16, fp32 and fp64.
bool can_convert(at::ScalarType from, at::ScalarType to);

// n values, rounded once to nearest even where `to` is narrower (fp64 → bf16 does not pass through
// a rounded fp32); infinities, signed zeros and NaN stay what they are (a NaN's payload may change
// unless the types are equal). Runs on the calling thread.
void convert(const void* from, at::ScalarType from_dtype, void* to, at::ScalarType to_dtype,
             int64_t n);

}  // namespace conclave::checkpoint
