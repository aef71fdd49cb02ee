// A block of 1,024 threads takes a row. First pass: maximum and Σ e^(x − maximum) as it goes, each
// thread over its packs, then over the block in fixed order; the packs that fit are left in shared
// memory. Second pass: gradients over the logits, from shared memory and, for the rest of a long
// row, read again: a third of it at 151,936 bf16, which the L2 cache still holds (132 rows · 100
// KB). bf16 uses the approximate exponential (2 ulp of fp32 and a relative error of 2^-24 · |x|).
#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/pack.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 1024;

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

// The row's, the same in every thread.
template <class T>
CONCLAVE_DEVICE Online<T> online_of_block(Online<T> mine) {
  using A = acc_t<T>;
  __shared__ A most[kThreads / 32], sum[kThreads / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const A other_most = __shfl_down_sync(0xffffffffu, mine.most, step),
            other_sum = __shfl_down_sync(0xffffffffu, mine.sum, step);
    mine.add(other_most, other_sum);
  }
  if (threadIdx.x % 32 == 0) {
    most[threadIdx.x / 32] = mine.most;
    sum[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  Online<T> all;
  for (int warp = 0; warp < kThreads / 32; ++warp) all.add(most[warp], sum[warp]);
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

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(double* losses, T* logits, const int64_t* labels, double seed,
                         bool gradient, int64_t vocab, int64_t ignore, int64_t kept) {
  using A = acc_t<T>;
  extern __shared__ uint4 memory[];
  T* shared = reinterpret_cast<T*>(memory);  // [kept]: the row's first logits
  T* row = logits + blockIdx.x * vocab;
  const int64_t label = labels[blockIdx.x];
  if (label == ignore) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;
    if (gradient)
      for (int64_t i = threadIdx.x * N; i < vocab; i += kThreads * N) store(row + i, Pack<T, N>{});
    return;
  }
  DEVICE_CHECK(label >= 0 && label < vocab, "cross_entropy: a label is outside of the vocabulary");
  const A target = wide(row[label]);  // before any thread overwrites it: barriers follow
  Online<T> online;
#pragma unroll 4
  for (int64_t i = threadIdx.x * N; i < vocab; i += kThreads * N) {
    const Pack<T, N> pack = load<N>(row + i);
    if (i < kept) store(shared + i, pack);
    add_pack(online, pack);
  }
  online = online_of_block(online);
  if (threadIdx.x == 0)
    losses[blockIdx.x] = log(static_cast<double>(online.sum)) +
                         (static_cast<double>(online.most) - static_cast<double>(target));
  if (!gradient) return;
  const A scale = A(seed) / online.sum;
#pragma unroll 2
  for (int64_t i = threadIdx.x * N; i < vocab; i += kThreads * N) {
    const Pack<T, N> pack = i < kept ? load<N>(shared + i) : load<N>(row + i);
    A out[N];
#pragma unroll
    for (int n = 0; n < N; ++n) out[n] = exponential<T>(wide(pack.at[n]) - online.most) * scale;
    // p − 1 before the product with the seed: near p = 1 the difference is what counts.
    if (label >= i && label < i + N)
#pragma unroll
      for (int n = 0; n < N; ++n)
        if (label == i + n)
          out[n] = (exponential<T>(wide(pack.at[n]) - online.most) / online.sum - A(1)) * A(seed);
    store(row + i, narrow<T>(out));
  }
}

// Bytes of shared memory a block may ask for on the current device.
int most_shared() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes;
}

template <class T, int N>
void launch(double* losses, T* logits, const int64_t* labels, double seed, bool gradient,
            const CrossEntropySizes& s, cudaStream_t stream) {
  constexpr int64_t kStatic = 1024;  // what the kernel's own arrays take at most
  const int64_t room = (most_shared() - kStatic) / 16 * 16;
  // Whole packs, so that a pack lies on one side.
  const int64_t kept =
      gradient ? std::min<int64_t>(s.vocab, room / static_cast<int64_t>(sizeof(T))) / N * N : 0;
  const int bytes = static_cast<int>(kept * static_cast<int64_t>(sizeof(T)));
  auto kernel = cross_entropy_kernel<T, N>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  check_launch("cross_entropy's shared memory");
  kernel<<<static_cast<unsigned>(s.tokens), kThreads, static_cast<unsigned>(bytes), stream>>>(
      losses, logits, labels, seed, gradient, s.vocab, s.ignore, kept);
  check_launch("cross_entropy");
}

}  // namespace

template <class T>
void cross_entropy(double* losses, T* logits, const int64_t* labels, double seed, bool gradient,
                   const CrossEntropySizes& s, cudaStream_t stream) {
  if (s.tokens == 0) return;
  constexpr int N = kPack<T>;
  if (s.vocab % N == 0 && aligned16(0, logits))
    launch<T, N>(losses, logits, labels, seed, gradient, s, stream);
  else
    launch<T, 1>(losses, logits, labels, seed, gradient, s, stream);
}

template void cross_entropy<float>(double*, float*, const int64_t*, double, bool,
                                   const CrossEntropySizes&, cudaStream_t);
template void cross_entropy<double>(double*, double*, const int64_t*, double, bool,
                                    const CrossEntropySizes&, cudaStream_t);
template void cross_entropy<bf16>(double*, bf16*, const int64_t*, double, bool,
                                  const CrossEntropySizes&, cudaStream_t);

}  // namespace conclave::kernels
