// Time in which nothing is done.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// What the device's current stream is given next begins `microseconds` later; the host goes on. On
// the CPU this thread sleeps. Less than one: nothing.
void delay(at::Device device, int64_t microseconds);

}  // namespace conclave::ops
