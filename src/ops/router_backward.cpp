#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>

#include <vector>

#include "base/check.h"
#include "ops/device.h"
#include "ops/router_cuda.h"
#include "ops/router_rows.h"

namespace conclave::ops {
namespace {

// Weights that are the softmax over the chosen logits alone, so that no other logit is heard.
bool of_chosen_alone(const Selection& s) {
  return s.scoring == Scoring::top_k_then_softmax ||
         (s.scoring == Scoring::softmax_then_top_k && s.renormalise);
}

// d[chosen] += gradient of the chosen scores, or logits with of_chosen_alone; `weights` as
// weigh_row leaves them.
template <class A>
void weigh_row_backward(A* d, const A* dweights, const A* weights, const int64_t* ids,
                        const A* scores, const Selection& s) {
  A dot = 0, sum = 0;
  for (int64_t j = 0; j < s.top_k; ++j) {
    dot += dweights[j] * A(s.scale) * weights[j];
    sum += scores[ids[j]];
  }
  if (s.scoring == Scoring::sigmoid) sum += A(kSigmoidEpsilon);
  for (int64_t j = 0; j < s.top_k; ++j) {
    const A g = dweights[j] * A(s.scale);
    if (of_chosen_alone(s))
      d[ids[j]] += weights[j] * (g - dot);
    else
      d[ids[j]] += s.renormalise ? (g - dot) / sum : g;
  }
}

// d ← p · (d − Σ d · p)
template <class A>
void softmax_row_backward(A* d, const A* p, int64_t n) {
  const A mean = row_dot(d, p, n);
  sweep<A>(n, [&](int64_t e, auto lanes) {
    store(d + e, load(p + e, lanes) * (load(d + e, lanes) - mean), lanes);
  });
}

// Sigmoid scores s: d is the gradient of s / (Σ s + ε) before, that of s after.
template <class A>
void normalised_row_backward(A* d, const A* s, int64_t n) {
  const A sum = sum_over<A>(n, [&](int64_t e, auto lanes) { return load(s + e, lanes); }) +
                A(kSigmoidEpsilon);
  const A mean = row_dot(d, s, n) / sum;
  sweep<A>(n,
           [&](int64_t e, auto lanes) { store(d + e, (load(d + e, lanes) - mean) / sum, lanes); });
}

// One token's dlogits, which hold dprobs or zeros before.
template <class A>
void backward_row(A* d, const A* dweights, bool has_dprobs, const A* logits, const int64_t* ids,
                  int64_t experts, A* scores, A* weights, const Selection& s) {
  score_row(scores, logits, experts, s.scoring);
  weigh_row(weights, ids, scores, logits, s);
  if (of_chosen_alone(s)) {
    if (has_dprobs) {
      if (s.scoring == Scoring::top_k_then_softmax) softmax_row(scores, logits, experts);
      softmax_row_backward(d, scores, experts);
    }
    return weigh_row_backward(d, dweights, weights, ids, scores, s);
  }
  const bool sigmoid = s.scoring == Scoring::sigmoid;
  if (sigmoid && has_dprobs) normalised_row_backward(d, scores, experts);
  weigh_row_backward(d, dweights, weights, ids, scores, s);
  if (!sigmoid) return softmax_row_backward(d, scores, experts);
  sweep<A>(experts, [&](int64_t e, auto lanes) {
    const auto p = load(scores + e, lanes);
    store(d + e, load(d + e, lanes) * p * (A(1) - p), lanes);
  });
}

}  // namespace

at::Tensor route_backward(const at::Tensor& dweights, const at::Tensor& dprobs,
                          const at::Tensor& logits, const at::Tensor& ids,
                          const Selection& selection) {
  TORCH_CHECK(logits.dim() == 2, "logits: expected [tokens, experts], got ", logits.sizes());
  const int64_t tokens = logits.size(0), experts = logits.size(1), top_k = selection.top_k;
  CHECK_SHAPE(logits, tokens, experts);
  check_selection(selection, experts);
  CHECK_SHAPE(ids, tokens, top_k);
  CHECK_DTYPE(ids, at::kLong);
  CHECK_SHAPE(dweights, tokens, top_k);
  CHECK_DTYPE(dweights, logits.scalar_type());
  if (dprobs.defined()) {
    CHECK_SHAPE(dprobs, tokens, experts);
    CHECK_DTYPE(dprobs, logits.scalar_type());
  }
  if constexpr (kCudaBuild)
    if (logits.is_cuda()) return cuda::route_backward(dweights, dprobs, logits, ids, selection);
  at::Tensor dlogits = at::empty_like(logits);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "route_backward", [&] {
    const scalar_t *dw = dweights.const_data_ptr<scalar_t>(),
                   *l = logits.const_data_ptr<scalar_t>();
    const scalar_t* dp = dprobs.defined() ? dprobs.const_data_ptr<scalar_t>() : nullptr;
    const int64_t* chosen = ids.const_data_ptr<int64_t>();
    scalar_t* to = dlogits.data_ptr<scalar_t>();
    each_token_block(tokens, experts * 8, [&](int64_t first, int64_t last) {
      std::vector<scalar_t> scores(experts), weights(top_k);
      for (int64_t t = first; t < last; ++t) {
        scalar_t* d = to + t * experts;
        if (dp)
          std::copy_n(dp + t * experts, experts, d);
        else
          std::fill_n(d, experts, scalar_t(0));
        backward_row(d, dw + t * top_k, dp != nullptr, l + t * experts, chosen + t * top_k, experts,
                     scores.data(), weights.data(), selection);
      }
    });
  });
  return dlogits;
}

}  // namespace conclave::ops
