// Contracts of functions on tensors. A failed check throws c10::Error whose first line reads, for
// CHECK_SHAPE(x, tokens, hidden):
//   x: expected [tokens, hidden] = [4096, 2048], got [4096, 2047]
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <initializer_list>

namespace conclave {

// `names` is the text between the brackets, e.g. "tokens, hidden". Throws if x is undefined, of
// other sizes, or not contiguous.
void check_shape(const at::Tensor& x, const char* name, const char* names,
                 std::initializer_list<int64_t> dims);
void check_dtype(const at::Tensor& x, const char* name, at::ScalarType expected);

#define CHECK_SHAPE(x, ...) ::conclave::check_shape(x, #x, #__VA_ARGS__, {__VA_ARGS__})
#define CHECK_DTYPE(x, dtype) ::conclave::check_dtype(x, #x, dtype)

}  // namespace conclave
