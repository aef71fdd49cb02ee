// One thread that looks at the clock (%globaltimer, ns) and sleeps between looks: its warp takes
// no issue slots from the kernels beside it.
#include <chrono>
#include <string>

#include "base/error.h"
#include "kernels/spin.h"

namespace conclave::kernels {
namespace {

__device__ __forceinline__ uint64_t clock_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

__global__ void __launch_bounds__(32) spin_kernel(uint64_t nanoseconds) {
  const uint64_t begin = clock_ns();
  while (clock_ns() - begin < nanoseconds) __nanosleep(500);
}

void CUDART_CB wait_here(void* nanoseconds) {
  using Clock = std::chrono::steady_clock;
  const auto until =
      Clock::now() + std::chrono::nanoseconds(reinterpret_cast<intptr_t>(nanoseconds));
  while (Clock::now() < until) continue;
}

}  // namespace

void spin(int64_t nanoseconds, cudaStream_t stream) {
  if (nanoseconds <= 0) return;
  spin_kernel<<<1, 1, 0, stream>>>(static_cast<uint64_t>(nanoseconds));
  check_launch("spin");
}

void wait_on_host(int64_t nanoseconds, cudaStream_t stream) {
  if (nanoseconds <= 0) return;
  const cudaError_t error = cudaLaunchHostFunc(
      stream, wait_here, reinterpret_cast<void*>(static_cast<intptr_t>(nanoseconds)));
  if (error != cudaSuccess)
    throw RunError(std::string("a delay on the host: CUDA says ") + cudaGetErrorString(error));
}

}  // namespace conclave::kernels
