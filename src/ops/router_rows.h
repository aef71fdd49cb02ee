// One token's scores and weights in fp32 or fp64, shared by the choice, its backward and the
// losses. Private to ops/.
#pragma once
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "ops/blocks.h"
#include "ops/router.h"
#include "ops/softmax_rows.h"

namespace conclave::ops {

// p ← softmax(logits). p may be logits.
template <class A>
inline void softmax_row(A* p, const A* logits, int64_t n) {
  const A largest = row_max(logits, n);
  if (p != logits) std::copy_n(logits, n, p);
  const A scale = A(1) / row_exp(p, n, largest);
  sweep<A>(n, [&](int64_t e, auto lanes) { store(p + e, load(p + e, lanes) * scale, lanes); });
}

// s ← σ(logits)
template <class A>
inline void sigmoid_row(A* s, const A* logits, int64_t n) {
  sweep<A>(n, [&](int64_t e, auto lanes) {
    store(s + e, A(1) / (A(1) + exp(-load(logits + e, lanes))), lanes);
  });
}

// counts [experts] += how often each appears in ids.
inline void count_loads(int64_t* counts, const int64_t* ids, int64_t n, int64_t experts) {
  for (int64_t i = 0; i < n; ++i) {
    TORCH_CHECK(ids[i] >= 0 && ids[i] < experts, "ids: expected 0 … ", experts - 1, ", got ",
                ids[i], " at place ", i);
    ++counts[ids[i]];
  }
}

// What the reference adds to a sum of sigmoid scores before it divides by it.
constexpr double kSigmoidEpsilon = 1e-20;

// The scores that the backward and the choice start from; softmax over the chosen needs none.
template <class A>
inline void score_row(A* scores, const A* logits, int64_t experts, Scoring scoring) {
  if (scoring == Scoring::softmax_then_top_k) softmax_row(scores, logits, experts);
  if (scoring == Scoring::sigmoid) sigmoid_row(scores, logits, experts);
}

// Weights of the chosen before `scale`, from the scores that score_row leaves or the logits.
template <class A>
inline void weigh_row(A* weights, const int64_t* ids, const A* scores, const A* logits,
                      const Selection& s) {
  const A* from = s.scoring == Scoring::top_k_then_softmax ? logits : scores;
  for (int64_t j = 0; j < s.top_k; ++j) weights[j] = from[ids[j]];
  if (s.scoring == Scoring::top_k_then_softmax) return softmax_row(weights, weights, s.top_k);
  if (!s.renormalise) return;
  A sum = 0;
  for (int64_t j = 0; j < s.top_k; ++j) sum += weights[j];
  if (s.scoring == Scoring::sigmoid) sum += A(kSigmoidEpsilon);
  for (int64_t j = 0; j < s.top_k; ++j) weights[j] /= sum;
}

// f(first, last) over blocks of tokens, large enough that a block's scratch costs nothing.
template <class F>
inline void each_token_block(int64_t tokens, int64_t cost, const F& f) {
  constexpr int64_t kTokens = 16;
  each_block((tokens + kTokens - 1) / kTokens, cost * kTokens,
             [&](int64_t b) { f(b * kTokens, std::min(tokens, (b + 1) * kTokens)); });
}

// Throws where a selection does not fit so many experts.
void check_selection(const Selection& s, int64_t experts);

}  // namespace conclave::ops
