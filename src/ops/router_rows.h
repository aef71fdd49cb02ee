// Scores of one token's logits in fp32 or fp64, shared by the choice and the losses. Private to
// ops/.
#pragma once
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>

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

}  // namespace conclave::ops
