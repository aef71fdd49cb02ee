// The element types of safetensors files, in the order in which the format's own library lays
// tensors out.
#pragma once
#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <string_view>

namespace conclave::checkpoint {

// "BF16" → at::kBFloat16 …; empty for a type that no tensor can have here (F4, F6_E2M3, F6_E3M2 or
// an unknown name).
std::optional<at::ScalarType> dtype_from_name(std::string_view name);
// The format's name of `dtype`. Throws c10::Error for a type that the format does not have.
std::string_view dtype_name(at::ScalarType dtype);
// Place of `dtype` in a file: tensors of a smaller rank come first (U64 is 0, BOOL the last).
int dtype_rank(at::ScalarType dtype);
// "BF16, F16, …": for messages.
std::string dtype_names();

}  // namespace conclave::checkpoint
