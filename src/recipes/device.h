// The device that a recipe runs on.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace conclave::recipes {

// Whether the program has the *_cuda.cpp files, and so what stands in recipes::cuda.
#ifdef CONCLAVE_CUDA
inline constexpr bool kCudaBuild = true;
#else
inline constexpr bool kCudaBuild = false;
#endif

// auto (a GPU where there is one, and it says so), cpu or cuda. ConfigError, beginning with
// `where`, for any other name and where there is no GPU for `cuda`.
at::Device choose_device(const std::string& name, const std::string& where);

// For a model of this type: fp64 runs on the CPU, the GPU's kernels do not have it; ConfigError
// where it is asked for with cuda.
at::Device choose_device(const std::string& name, const std::string& where, at::ScalarType dtype);

// Of a CUDA device: "NVIDIA H100 80GB HBM3".
std::string device_name(at::Device device);
// Dense bf16 operations a second of a whole chip of this name, as its vendor says; 0: not known.
double peak_flops(const std::string& device_name);

// On the GPU in use: see recipes/gpu_memory_cuda.h.
void limit_device_memory(int64_t bytes, const std::string& message);
int64_t peak_device_memory();  // bytes of tensors at most; 0 without CUDA

}  // namespace conclave::recipes
