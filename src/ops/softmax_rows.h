// The steps of a softmax on one row in fp32 or fp64, shared by attention and cross entropy. The
// order of a sum depends on the row's length only. Private to ops/.
#pragma once
#include <limits>

#include "ops/simd.h"

namespace conclave::ops {

// The largest of x[0 … n), −∞ for none. A NaN may be passed over: it shows in row_exp.
template <class A>
inline A row_max(const A* x, int64_t n) {
  A largest = -std::numeric_limits<A>::infinity();
  Vec<A> most = broadcast(A(0)) + largest;
  int64_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) {
    const Vec<A> v = load(x + i);
    most = v > most ? v : most;
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  for (int lane = 0; lane < kLanes<A>; ++lane)
    largest = most[lane] > largest ? most[lane] : largest;
  return largest;
}

// x ← e^(x − shift); returns the sum.
template <class A>
inline A row_exp(A* x, int64_t n, A shift) {
  return sum_over<A>(n, [=](int64_t i, auto lanes) {
    store(x + i, exp(load(x + i, lanes) - shift), lanes);
    return load(x + i, lanes);
  });
}

template <class A>
inline A row_dot(const A* x, const A* y, int64_t n) {
  return sum_over<A>(
      n, [=](int64_t i, auto lanes) { return load(x + i, lanes) * load(y + i, lanes); });
}

}  // namespace conclave::ops
