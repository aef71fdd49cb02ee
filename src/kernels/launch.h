// What every kernel's launcher shares on the host's side. No libtorch here: pointers, sizes and a
// stream. Launchers take any size, also 0, and pointers of any alignment; 16-byte accesses are used
// where all pointers and the rows' length allow them. Nothing waits for the device.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <type_traits>

namespace conclave::kernels {

// The bits of a bf16 number, as they lie in memory; c10::BFloat16 has the same.
struct bf16 {
  uint16_t bits;
};

// What a T is computed in: fp32 for bf16.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

// Throws RunError naming the kernel if its launch was refused (a fault inside it shows at a later
// call).
void check_launch(const char* kernel);

// Waits until the stream's work is done. Throws RunError if any of it failed.
void synchronize(cudaStream_t stream);

// The current device's number of multiprocessors.
int multiprocessors();

inline int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

// Every pointer is a multiple of 16 bytes (or null), and so is `row_bytes`.
template <class... P>
bool aligned16(int64_t row_bytes, const P*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ... | static_cast<uintptr_t>(row_bytes)) & 15) ==
         0;
}

}  // namespace conclave::kernels
