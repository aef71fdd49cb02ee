#include "recipes/device_cuda.h"

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime_api.h>

namespace conclave::recipes::cuda {

std::string device_name(at::Device device) {
  cudaDeviceProp properties{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index()));
  return properties.name;
}

}  // namespace conclave::recipes::cuda
