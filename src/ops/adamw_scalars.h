// What one update of AdamW needs of its step, computed in fp64 and rounded once to what the update
// computes in, as torch.optim.AdamW hands them to its kernels. Private to ops/.
#pragma once
#include "ops/adamw.h"

namespace conclave::ops {

struct AdamWScalars {
  double keep, rest1, beta2, rest2, root_bc2, eps, minus_size, grad_scale;
};
constexpr int64_t kAdamWScalars = sizeof(AdamWScalars) / sizeof(double);

AdamWScalars scalars_of(const AdamWStep& s);

}  // namespace conclave::ops
