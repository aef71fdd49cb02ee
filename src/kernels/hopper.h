// Kernels that are made of Hopper's own instructions: whether they run here, and their launch.
#pragma once
namespace conclave::kernels {

// Whether `kernel` runs on the current device as the code for sm_90a, not as what the driver makes
// of other PTX. Asked of the driver once a device.
bool has_hopper_code(const void* kernel);

// Lets `kernel` take that much dynamic shared memory on the current device. Throws RunError if CUDA
// refuses.
void allow_shared_memory(const void* kernel, int bytes);

}  // namespace conclave::kernels
