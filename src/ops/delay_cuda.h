// Private to ops/: what delay.cpp calls on a GPU.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops::cuda {

void delay(at::Device device, int64_t microseconds);
void transfer_delay(at::Device device, int64_t microseconds);

}  // namespace conclave::ops::cuda
