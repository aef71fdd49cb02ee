// Linear layer and cross entropy in one, in chunks of tokens: full logits never exist.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

constexpr int64_t kIgnore = -100;  // a label that is not scored

struct LinearCrossEntropy {
  double loss_sum;  // Σ over scored tokens of −log softmax(x · wᵀ)[label], summed in fp64 in token
                    // order
  int64_t scored;  // how many
  at::Tensor dx;   // gradient of seed · loss_sum, [tokens, hidden]; undefined without a gradient
};
// x [tokens, hidden] · w [vocab, hidden] · labels [tokens] int64: target of this very position, or
// kIgnore (any other value outside the vocabulary throws). With dw [vocab, hidden] (fp32 or wider)
// defined, each chunk's logits are overwritten by their gradient times seed, dw += its product with
// x, and dx is returned. Chunks are at most max_logits elements (at least one token).
LinearCrossEntropy linear_cross_entropy(const at::Tensor& x, const at::Tensor& w,
                                        const at::Tensor& labels, double seed, at::Tensor dw,
                                        int64_t max_logits = int64_t{1} << 22);

}  // namespace conclave::ops
