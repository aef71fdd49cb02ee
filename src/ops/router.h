// Selection of experts: softmax over all experts, then the top_k largest, optionally renormalised
// (Qwen3-MoE, Mixtral).
#pragma once
#include <ATen/core/Tensor.h>

#include <span>

namespace conclave::ops {

struct SoftmaxTopK {
  at::Tensor probs;    // [tokens, experts], fp32 or wider: kept for the backward
  at::Tensor ids;      // [tokens, top_k] int64, falling probability, the lower id first on a tie
  at::Tensor weights;  // [tokens, top_k], dtype of probs
  at::Tensor loads;    // [experts] int64
};
// logits [tokens, experts], fp32 or wider · 1 ≤ top_k ≤ experts.
SoftmaxTopK softmax_top_k(const at::Tensor& logits, int64_t top_k, bool renormalise);
// Gradient of the logits, same shape. dprobs [tokens, experts] is what reaches the probabilities
// from elsewhere (the auxiliary loss), or undefined.
at::Tensor softmax_top_k_backward(const at::Tensor& dweights, const at::Tensor& dprobs,
                                  const at::Tensor& probs, const at::Tensor& ids, bool renormalise);

struct BalanceLoss {
  double loss;  // Σ over rows of coef · experts/(top_k · T²) · Σ_e load_e · Σ_t probs[t, e], T
                // tokens in the row
  at::Tensor dprobs;  // its gradient, [tokens, experts]
};
// Row r has tokens row_offsets[r] … row_offsets[r+1). Loads are counted from ids and carry no
// gradient. Source: arXiv 2101.03961 §2.2.
BalanceLoss balance_loss(const at::Tensor& probs, const at::Tensor& ids,
                         std::span<const int64_t> row_offsets, double coef);

}  // namespace conclave::ops
