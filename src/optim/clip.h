// Clipping by the global norm of all gradients.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::optim {

// What gradients are multiplied with: min(1, clip_norm / (norm + 1e-6)) with norm = √squared_norm,
// as torch.nn.utils.clip_grad_norm_ scales; 1 for clip_norm ≤ 0. Not a number where the norm or
// the loss is not finite, so that AdamW::step leaves the step out. squared_norm, loss [1] fp64 →
// [1] fp64, all on one device, without waiting for it.
at::Tensor clip_scale(const at::Tensor& squared_norm, const at::Tensor& loss, double clip_norm);

}  // namespace conclave::optim
