#include "ops/delay.h"

#include <chrono>
#include <thread>

#include "ops/delay_cuda.h"
#include "ops/device.h"

namespace conclave::ops {

void delay(at::Device device, int64_t microseconds) {
  if (microseconds <= 0) return;
  if constexpr (kCudaBuild)
    if (device.is_cuda()) return cuda::delay(device, microseconds);
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

void transfer_delay(at::Device device, int64_t microseconds) {
  if constexpr (kCudaBuild)
    if (device.is_cuda()) return cuda::transfer_delay(device, microseconds);
  delay(device, microseconds);
}

}  // namespace conclave::ops
