// The final norm, the head and the loss on a micro-batch's way.
#pragma once
#include "nn/tape.h"
#include "nn/weight.h"
#include "parallel/segment.h"

namespace conclave::parallel {

class HeadRun {
 public:
  explicit HeadRun(const nn::Tape& fresh) : tape_(fresh) {}

  // hidden [tokens, hidden] → its norm, same shape. With labels also the loss, Σ over the scored
  // positions times `seed`, and in training its gradients. Does not wait for the device.
  at::Tensor forward(at::Tensor hidden, nn::Weight& norm, double eps, nn::Weight& head,
                     const at::Tensor& labels, double seed);
  // `dnormed`: the gradient of what forward returned, beside the loss's; may be undefined. Returns
  // that of hidden.
  at::Tensor backward(const at::Tensor& dnormed, const RunOptions& options);

  nn::Tape& tape() { return tape_; }
  const nn::Tape& tape() const { return tape_; }
  // [1] fp64 on hidden's device: Σ over scored positions, nats; undefined without labels.
  const at::Tensor& loss_sum() const { return loss_sum_; }

 private:
  nn::Tape tape_;
  nn::Value in_, normed_;
  at::Tensor loss_sum_;
};

}  // namespace conclave::parallel
