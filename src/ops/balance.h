// What keeps experts busy and logits small: the auxiliary losses of a router with their gradients,
// and the correction bias that follows the loads.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>

#include "ops/router.h"

namespace conclave::ops {

// What a balance loss looks at, [tokens, experts]: softmax(logits), or with sigmoid scores each
// over the token's sum (+ 1e-20).
at::Tensor balance_probs(const at::Tensor& logits, Scoring scoring);

enum class GroupWeight {
  one,     // each group counts the same
  length,  // a group counts as often as it has tokens
};

struct BalanceLoss {
  at::Tensor loss;  // [] fp64: Σ over groups of coef · weight · experts/(top_k · T²) · Σ_e load_e ·
                    // Σ_t probs[t, e], T tokens in the group
  at::Tensor dprobs;  // its gradient, [tokens, experts]
};
// Group g has tokens offsets[g] … offsets[g+1): the packed rows for the auxiliary loss (arXiv
// 2101.03961 §2.2), documents for DeepSeek-V3's complementary sequence loss (arXiv 2412.19437
// eq. 17–20). Loads are counted from ids and carry no gradient.
BalanceLoss balance_loss(const at::Tensor& probs, const at::Tensor& ids,
                         std::span<const int64_t> offsets, double coef, GroupWeight weight);

struct ZLoss {
  at::Tensor loss;     // [] fp64: coef · Σ over tokens of (log Σ exp logits)²
  at::Tensor dlogits;  // its gradient, [tokens, experts]
};
// Source: arXiv 2202.08906 eq. 5.
ZLoss z_loss(const at::Tensor& logits, double coef);

// bias[e] += rate · sign(mean load − loads[e]), exact in the comparison. bias [experts] fp32 or
// fp64, loads [experts] int64: one optimizer step's pairs over the whole global batch. Source:
// arXiv 2408.15664.
void correct_bias_(at::Tensor bias, const at::Tensor& loads, double rate);

}  // namespace conclave::ops
