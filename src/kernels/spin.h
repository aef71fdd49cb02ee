// A stream that does nothing for a while: what stands for a transfer, or shakes the order of
// streams in tests.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

// The stream's next work begins so much later, by the device's clock. Takes one warp, and with it
// the place of a block that needs a multiprocessor's whole shared memory.
void spin(int64_t nanoseconds, cudaStream_t stream);

// The same by the host's clock, without anything of the device: a thread of the driver waits, and
// keeps a core busy meanwhile (asleep it would wake up some 60 µs late).
void wait_on_host(int64_t nanoseconds, cudaStream_t stream);

}  // namespace conclave::kernels
