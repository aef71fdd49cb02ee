// What recipes/device.h asks of the CUDA runtime. Private to recipes/.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace conclave::recipes::cuda {

std::string device_name(at::Device device);

}  // namespace conclave::recipes::cuda
