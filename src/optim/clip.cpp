#include "optim/clip.h"

#include "ops/adamw.h"

namespace conclave::optim {

at::Tensor clip_scale(const at::Tensor& squared_norm, const at::Tensor& loss, double clip_norm) {
  return ops::clip_scale(squared_norm, loss, clip_norm);
}

}  // namespace conclave::optim
