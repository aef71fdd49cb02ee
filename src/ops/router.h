// Selection of experts: scores from logits, the top_k of them, and the weight with which each is
// heard. Which losses keep the experts busy stands in ops/balance.h.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

enum class Scoring {
  softmax_then_top_k,  // p = softmax over all experts; Qwen3-MoE, Mixtral, OLMoE
  top_k_then_softmax,  // the top_k logits, softmax over these alone; GPT-OSS
  sigmoid,             // s = σ(logit), chosen by s + correction bias; DeepSeek-V3, Kimi-K2
};

struct Selection {
  Scoring scoring = Scoring::softmax_then_top_k;
  int64_t top_k = 1;
  bool renormalise = true;  // the chosen weights sum to 1; without effect on top_k_then_softmax,
                            // whose weights do
  double scale = 1;         // of all weights, after that
  // sigmoid: experts lie in `groups` equal groups; only those of the top_groups with the largest
  // sum of their two best biased scores are chosen from. The others count as −∞, not as 0: a biased
  // score may be negative.
  int64_t groups = 1, top_groups = 1;
};

struct Routing {
  at::Tensor ids;  // [tokens, top_k] int64, falling score (with its bias), the lower id first on
                   // a tie; groups likewise
  at::Tensor weights;  // [tokens, top_k], dtype of logits
  at::Tensor loads;    // [experts] int64: how often each expert is in ids
};
// logits [tokens, experts], fp32 or wider; correction_bias [experts] of their dtype, or undefined:
// it takes part in the choice alone, never in the weights. `given` [tokens, top_k] int64 replaces
// the choice (router replay, forced gates); its order is kept. Sigmoid weights are renormalised
// over their sum + 1e-20. Also with NaN in the logits ids are distinct and in range. Source: arXiv
// 2412.19437 §2.1.2; transformers' routers choose the same.
Routing route(const at::Tensor& logits, const at::Tensor& correction_bias,
              const Selection& selection, const at::Tensor& given = {});
// Gradient of the logits, same shape, for fixed ids. dprobs [tokens, experts] is what reaches
// balance_probs(logits) from a loss, or undefined.
at::Tensor route_backward(const at::Tensor& dweights, const at::Tensor& dprobs,
                          const at::Tensor& logits, const at::Tensor& ids,
                          const Selection& selection);

// How often each expert is in ids [tokens, top_k]: [experts] int64.
at::Tensor loads_of(const at::Tensor& ids, int64_t experts);

// ids [tokens, top_k] int64 of the forced gates of a measurement. Balanced: (t · top_k + j) mod
// experts. Uniform: top_k distinct experts, each set as likely as any other; depends on (seed,
// stream, token) alone.
at::Tensor balanced_ids(int64_t tokens, int64_t top_k, int64_t experts,
                        at::Device device = at::kCPU);
at::Tensor uniform_ids(int64_t tokens, int64_t top_k, int64_t experts, uint64_t seed,
                       uint64_t stream, at::Device device = at::kCPU);

}  // namespace conclave::ops
