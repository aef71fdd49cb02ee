// What the tests of several back ends share: tensors whose values tell rank and place, and the text
// of an error.
#pragma once
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <c10/util/Exception.h>

#include <string>

namespace conclave::comm {

// [n]: 1000 · rank, 1000 · rank + 1, …
inline at::Tensor numbered(int rank, int64_t n, at::ScalarType dtype = at::kDouble) {
  return (at::arange(n, at::kDouble) + 1000.0 * rank).to(dtype);
}

// The message of what f throws, without a backtrace; empty if it throws nothing.
template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

}  // namespace conclave::comm
