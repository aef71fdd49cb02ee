// From tensors to what a kernel's launcher takes. Private to the *_cuda.cpp files of ops/.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <initializer_list>
#include <type_traits>
#include <utility>

#include "kernels/launch.h"

namespace conclave::ops::cuda {

// The kernels' name for a C++ type of libtorch.
template <class S>
using kernel_t = std::conditional_t<std::is_same_v<S, c10::BFloat16>, kernels::bf16, S>;

// Null for an undefined tensor.
template <class S>
const kernel_t<S>* in(const at::Tensor& x) {
  return x.defined() ? reinterpret_cast<const kernel_t<S>*>(x.const_data_ptr<S>()) : nullptr;
}
template <class S>
kernel_t<S>* out(const at::Tensor& x) {
  return x.defined() ? reinterpret_cast<kernel_t<S>*>(x.data_ptr<S>()) : nullptr;
}
// The accumulation type's pointers, e.g. of statistics: S as libtorch calls it.
template <class S>
using wide_t = kernels::acc_t<kernel_t<S>>;

// Makes the device of x current for the lifetime of this, and is the stream that is current there.
// Throws unless all of `others` that are defined are on that device.
class OnDevice {
 public:
  OnDevice(const at::Tensor& x, std::initializer_list<std::pair<const char*, at::Tensor>> others)
      : guard_(x.device()) {
    for (const auto& [name, t] : others)
      TORCH_CHECK(!t.defined() || t.device() == x.device(), name, ": expected a tensor on ",
                  x.device(), ", got one on ", t.device());
  }
  operator cudaStream_t() const { return c10::cuda::getCurrentCUDAStream(); }

 private:
  c10::cuda::CUDAGuard guard_;
};

}  // namespace conclave::ops::cuda
