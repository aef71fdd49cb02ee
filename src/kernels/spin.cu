// One thread that looks at the clock (%globaltimer, ns) and sleeps between looks: its warp takes
// no issue slots from the kernels beside it.
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

}  // namespace

void spin(int64_t nanoseconds, cudaStream_t stream) {
  if (nanoseconds <= 0) return;
  spin_kernel<<<1, 1, 0, stream>>>(static_cast<uint64_t>(nanoseconds));
  check_launch("spin");
}

}  // namespace conclave::kernels
