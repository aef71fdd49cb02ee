#include "ops/adamw_scalars.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "ops/adamw_cuda.h"
#include "ops/device.h"

namespace conclave::ops {

AdamWScalars scalars_of(const AdamWStep& s) {
  TORCH_CHECK(s.step >= 1, "step: expected 1 for the first update or more, got ", s.step);
  const double bc1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  const double bc2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  return {.keep = 1 - s.lr * s.weight_decay,
          .rest1 = 1 - s.beta1,
          .beta2 = s.beta2,
          .rest2 = 1 - s.beta2,
          .root_bc2 = std::sqrt(bc2),
          .eps = s.eps,
          .minus_size = -(s.lr / bc1),
          .grad_scale = s.grad_scale};
}

at::Tensor adamw_scalars(const AdamWRule& rule, const at::Tensor& lr, const at::Tensor& grad_scale,
                         at::Tensor steps) {
  CHECK_SHAPE(lr, 1);
  CHECK_DTYPE(lr, at::kDouble);
  CHECK_SHAPE(grad_scale, 1);
  CHECK_DTYPE(grad_scale, at::kDouble);
  CHECK_SHAPE(steps, 1);
  CHECK_DTYPE(steps, at::kLong);
  if constexpr (kCudaBuild)
    if (steps.is_cuda()) return cuda::adamw_scalars(rule, lr, grad_scale, steps);
  const double scale = *grad_scale.const_data_ptr<double>();
  int64_t* count = steps.data_ptr<int64_t>();
  if (std::isfinite(scale)) ++*count;
  const AdamWScalars s = scalars_of({.lr = *lr.const_data_ptr<double>(),
                                     .beta1 = rule.beta1,
                                     .beta2 = rule.beta2,
                                     .eps = rule.eps,
                                     .weight_decay = rule.weight_decay,
                                     .step = std::max<int64_t>(*count, 1),
                                     .grad_scale = scale});
  at::Tensor out = at::empty({kAdamWScalars}, lr.options());
  std::memcpy(out.data_ptr<double>(), &s, sizeof(s));
  return out;
}

at::Tensor clip_scale(const at::Tensor& squared_sum, const at::Tensor& loss, double clip_norm) {
  CHECK_SHAPE(squared_sum, 1);
  CHECK_DTYPE(squared_sum, at::kDouble);
  if (loss.defined()) {
    CHECK_SHAPE(loss, 1);
    CHECK_DTYPE(loss, at::kDouble);
  }
  if constexpr (kCudaBuild)
    if (squared_sum.is_cuda()) return cuda::clip_scale(squared_sum, loss, clip_norm);
  const double norm = std::sqrt(*squared_sum.const_data_ptr<double>());
  const bool finite =
      std::isfinite(norm) && (!loss.defined() || std::isfinite(*loss.const_data_ptr<double>()));
  const double scale = clip_norm > 0 ? std::min(1.0, clip_norm / (norm + 1e-6)) : 1.0;
  at::Tensor out = at::empty({1}, squared_sum.options());
  *out.data_ptr<double>() = finite ? scale : std::numeric_limits<double>::quiet_NaN();
  return out;
}

}  // namespace conclave::ops
