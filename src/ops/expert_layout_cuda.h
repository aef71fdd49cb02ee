// ops/dispatch.h's expert_layout on CUDA; ids were checked but for their values. Private to ops/.
#pragma once
#include "ops/dispatch.h"

namespace conclave::ops::cuda {

// All three int32, on the device; no host sync. An id out of range stops the kernel (a CUDA error).
ExpertLayout expert_layout(const at::Tensor& ids, int64_t experts);

}  // namespace conclave::ops::cuda
