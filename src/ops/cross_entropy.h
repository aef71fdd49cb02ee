// Linear layer and cross entropy in one, in chunks of tokens: full logits never exist.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

constexpr int64_t kIgnore = -100;  // a label that is not scored

// Logits at once if it is not said how many: on CUDA 1 GiB of bf16, which keeps the products large
// and reads and writes dw few times.
constexpr int64_t kCpuLogits = int64_t{1} << 22, kCudaLogits = int64_t{1} << 29;

struct LinearCrossEntropy {
  double loss_sum;  // Σ over scored tokens of −log softmax(x · wᵀ)[label], summed in fp64 in token
                    // order
  int64_t scored;  // how many
  at::Tensor dx;   // gradient of seed · loss_sum, [tokens, hidden]; undefined without a gradient
};
// x [tokens, hidden] · w [vocab, hidden] · labels [tokens] int64: target of this very position, or
// kIgnore (any other value outside the vocabulary throws; on CUDA it stops the device). With dw
// [vocab, hidden] (fp32 or wider; on CUDA also x's type) defined, each chunk's logits are
// overwritten by their gradient times seed, dw += its product with x, and dx is returned. Chunks
// are at most max_logits elements (at least one token), 0: kCpuLogits or kCudaLogits. On CUDA the
// logits are of x's type, as the references' are, and this waits for the device.
LinearCrossEntropy linear_cross_entropy(const at::Tensor& x, const at::Tensor& w,
                                        const at::Tensor& labels, double seed, at::Tensor dw,
                                        int64_t max_logits = 0);
// The same without waiting: loss_sum [1] fp64, on x's device, += the sum of the losses. Returns dx.
at::Tensor linear_cross_entropy_(at::Tensor loss_sum, const at::Tensor& x, const at::Tensor& w,
                                 const at::Tensor& labels, double seed, at::Tensor dw,
                                 int64_t max_logits = 0);

}  // namespace conclave::ops
