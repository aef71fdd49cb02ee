// Time in which nothing is done.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// What the device's current stream is given next begins `microseconds` later; the host goes on. On
// the CPU this thread sleeps. Less than one: nothing.
void delay(at::Device device, int64_t microseconds);
// The same, in the place of a transfer by copy engines or a network card: no multiprocessor has to
// do with it (that of `delay` takes a place on one).
void transfer_delay(at::Device device, int64_t microseconds);

}  // namespace conclave::ops
