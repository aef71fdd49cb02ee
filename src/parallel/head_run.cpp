#include "parallel/head_run.h"

#include <ATen/ops/zeros.h>

#include <utility>

#include "nn/norm.h"
#include "ops/cross_entropy.h"

namespace conclave::parallel {

at::Tensor HeadRun::forward(at::Tensor hidden, nn::Weight& norm, double eps, nn::Weight& head,
                            const at::Tensor& labels, double seed) {
  in_ = tape_.input(std::move(hidden), "residual");
  normed_ = nn::rms_norm(tape_, in_, norm, eps);
  in_.data.reset();
  normed_.recipe = nullptr;
  if (labels.defined()) {
    // Loss and both gradients in one pass over chunks of logits: the seed is known, so nothing of
    // them needs to be kept.
    at::Tensor dw = tape_.recording() ? head.grad() : at::Tensor();
    loss_sum_ = at::zeros({1}, normed_.data.options().dtype(at::kDouble));
    tape_.add_grad(normed_.id, ops::linear_cross_entropy_(loss_sum_, normed_.data, head.data(),
                                                          labels, seed, dw));
  }
  return std::exchange(normed_.data, {});
}

at::Tensor HeadRun::backward(const at::Tensor& dnormed, const RunOptions& options) {
  tape_.seed(normed_, dnormed);
  finish_tape(tape_, options);
  return tape_.take_grad(in_);
}

}  // namespace conclave::parallel
