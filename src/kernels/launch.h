// What every kernel's launcher shares on the host's side. No libtorch here: pointers, sizes and a
// stream.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

// The bits of a bf16 number, as they lie in memory; c10::BFloat16 has the same.
struct bf16 {
  uint16_t bits;
};

// Throws RunError naming the kernel if its launch was refused (a fault inside it shows at a later
// call).
void check_launch(const char* kernel);

// Waits until the stream's work is done. Throws RunError if any of it failed.
void synchronize(cudaStream_t stream);

}  // namespace conclave::kernels
