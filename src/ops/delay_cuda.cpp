#include "ops/delay_cuda.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/spin.h"

namespace conclave::ops::cuda {

void delay(at::Device device, int64_t microseconds) {
  const c10::cuda::CUDAGuard guard(device);
  kernels::spin(1000 * microseconds, c10::cuda::getCurrentCUDAStream());
}

void transfer_delay(at::Device device, int64_t microseconds) {
  const c10::cuda::CUDAGuard guard(device);
  kernels::wait_on_host(1000 * microseconds, c10::cuda::getCurrentCUDAStream());
}

}  // namespace conclave::ops::cuda
