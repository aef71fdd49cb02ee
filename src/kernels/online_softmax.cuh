// The sum of a softmax as it goes: shared by the kernels of kernels/cross_entropy.h.
#pragma once
#include "kernels/pack.cuh"

namespace conclave::kernels {

template <class T>
CONCLAVE_DEVICE acc_t<T> exponential(acc_t<T> x) {
  if constexpr (std::is_same_v<T, bf16>)
    return __expf(x);
  else
    return exp(x);
}

// e^(x − most) summed, where most is the largest x so far. Nothing seen: −inf and 0.
template <class T>
struct Online {
  using A = acc_t<T>;
  A most = -INFINITY, sum = 0;

  // Both at once: a sum under another maximum is scaled to this one. A NaN stays in the sum.
  CONCLAVE_DEVICE void add(A other_most, A other_sum) {
    if (other_most > most) {
      sum = sum * exponential<T>(most - other_most) + other_sum;
      most = other_most;
    } else if (other_sum != A(0)) {  // also a NaN; the maximum of an empty strand is −inf
      sum += other_sum * (most == other_most ? A(1) : exponential<T>(other_most - most));
    }
  }
};

// The row's, the same in every thread. A block that calls it for one row after the other gives two
// `parts` in turn: there is one barrier in it.
template <class T, int kThreads>
struct OnlineParts {
  acc_t<T> most[kThreads / 32], sum[kThreads / 32];
};
template <class T, int kThreads>
CONCLAVE_DEVICE Online<T> online_of_block(Online<T> mine, OnlineParts<T, kThreads>& parts) {
  using A = acc_t<T>;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const A other_most = __shfl_down_sync(0xffffffffu, mine.most, step),
            other_sum = __shfl_down_sync(0xffffffffu, mine.sum, step);
    mine.add(other_most, other_sum);
  }
  if (threadIdx.x % 32 == 0) {
    parts.most[threadIdx.x / 32] = mine.most;
    parts.sum[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  Online<T> all;
  for (int warp = 0; warp < kThreads / 32; ++warp) all.add(parts.most[warp], parts.sum[warp]);
  return all;
}

template <class T, int N>
CONCLAVE_DEVICE void add_pack(Online<T>& online, const Pack<T, N>& pack) {
  using A = acc_t<T>;
  A largest = wide(pack.at[0]);
#pragma unroll
  for (int n = 1; n < N; ++n) {
    const A x = wide(pack.at[n]);
    largest = x > largest ? x : largest;
  }
  if (largest > online.most) {
    online.sum *= exponential<T>(online.most - largest);
    online.most = largest;
  }
  // Where all were −inf so far, 0 stands for the maximum: −inf − −inf would be NaN.
  const A shift = online.most == A(-INFINITY) ? A(0) : online.most;
#pragma unroll
  for (int n = 0; n < N; ++n) online.sum += exponential<T>(wide(pack.at[n]) - shift);
}

}  // namespace conclave::kernels
