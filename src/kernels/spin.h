// A stream that does nothing for a while: what stands for a transfer, or shakes the order of
// streams in tests.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

// The stream's next work begins so much later, by the device's clock. Takes one warp.
void spin(int64_t nanoseconds, cudaStream_t stream);

}  // namespace conclave::kernels
