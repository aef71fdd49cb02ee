// How the kernels of head norm with rotary cut heads: kLanes lanes hold a head, each kPacks times
// the packs at i and at i + half, so both sides of its pairs, and nothing is exchanged but sums
// over the head.
#pragma once
#include <algorithm>

#include "kernels/rotary.h"
#include "kernels/rotary_pair.cuh"

namespace conclave::kernels {

// The two sides of N pairs of one head.
template <class T, int N>
struct Sides {
  Pack<T, N> a, b;
  CONCLAVE_DEVICE void read(const T* from, int half) {
    a = load<N>(from);
    b = load<N>(from + half);
  }
};

// f(lanes, packs, elements of a pack) as compile-time constants, for heads of dim elements.
template <class T, class F>
auto with_cut(const HeadNormRotaryArgs<T>& a, const F& f) {
  constexpr int N = kPack<T>;
  const int packs = a.dim / 2 / N;
  bool aligned = a.dim / 2 % N == 0 && aligned16(0, a.cos, a.sin);
  for (int i = 0; i < a.count; ++i)
    aligned &= aligned16(0, a.of[i].y, a.of[i].x, a.of[i].dy, a.of[i].weight);
  if constexpr (!std::is_same_v<T, double>) {
    if (aligned && packs <= 8) return f.template operator()<8, 1, N>();
    if (aligned && packs <= 16) return f.template operator()<16, 1, N>();
    if (aligned && packs <= 32) return f.template operator()<32, 1, N>();
  }
  return f.template operator()<32, kMostHeadDim / 64, 1>();
}

template <class T>
int64_t most_rows(const HeadNormRotaryArgs<T>& a) {
  return a.tokens * std::max(a.of[0].heads, a.of[1].heads);
}

}  // namespace conclave::kernels
