// kLanes lanes hold a head, each kPacks times the packs at i and at i + half: both sides of its
// pairs, so nothing is exchanged but the sum of squares. 256 threads a block.
//
// The backward's blocks take every gridDim-th group of rows, read the next one while they work on
// one, and keep Σ dy · x̂ of their columns in registers; a block adds its groups in fixed order,
// kernels/reduce the blocks. Packs of 4 there: with 8 of bf16 fewer threads had room.
//
// One H100, 2026-11-25, 16,384 tokens × 32 heads of 128 bf16 beside a copy of as many bytes
// (bench/kernels_bench.cpp): forward 0.84 of its rate, backward 0.71; 4 heads 0.78 and 0.54.
#include <algorithm>

#include "kernels/reduce.h"
#include "kernels/rotary.h"
#include "kernels/rotary_pair.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kResident = 3;  // blocks of the backward on a multiprocessor

// The two sides of N pairs of one head.
template <class T, int N>
struct Sides {
  Pack<T, N> a, b;
  CONCLAVE_DEVICE void read(const T* head, int i, int half) {
    a = load<N>(head + i);
    b = load<N>(head + half + i);
  }
};

// x̂ · weight as the norm by itself would store it.
template <class T, int N>
CONCLAVE_DEVICE void normed(acc_t<T> (&out)[N], const Pack<T, N>& x, acc_t<T> r, const T* weight) {
  const Pack<T, N> w = load<N>(weight);
#pragma unroll
  for (int n = 0; n < N; ++n) out[n] = rounded<T>(rounded<T>(wide(x.at[n]) * r) * wide(w.at[n]));
}

template <class T, int N, int kLanes, int kPacks>
__global__ void __launch_bounds__(kThreads) forward_kernel(const HeadNormRotaryArgs<T> a) {
  using A = acc_t<T>;
  const RotaryArgs<T>& at = a.rotary;
  const int lane = threadIdx.x % kLanes, half = at.dim / 2;
  const int64_t rows = at.tokens * at.heads,
                row = static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  const bool active = row < rows;
  Sides<T, N> x[kPacks];
  A squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (p * kLanes + lane) * N;
    if (!active || i >= half) continue;
    x[p].read(at.x + row * at.dim, i, half);
#pragma unroll
    for (int n = 0; n < N; ++n)
      squares += wide(x[p].a.at[n]) * wide(x[p].a.at[n]) + wide(x[p].b.at[n]) * wide(x[p].b.at[n]);
  }
  squares = sum_of_lanes<kLanes>(squares);
  if (!active) return;
  const A r = a.from_rstd ? a.rstd[row] : A(1) / sqrt(squares / A(at.dim) + A(a.eps));
  if (!a.from_rstd && lane == 0) a.rstd[row] = r;
  int64_t token;
  int head;
  split(row, at.heads, token, head);
  const int64_t place = position_of(at, token) * half;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (p * kLanes + lane) * N;
    if (i >= half) continue;
    A u[N], v[N];
    normed(u, x[p].a, r, a.weight + i);
    normed(v, x[p].b, r, a.weight + half + i);
    rotate<N>(u, v, at.cos + place + i, at.sin + place + i, A(1));
    store(at.y + row * at.dim + i, narrow<T>(u));
    store(at.y + row * at.dim + half + i, narrow<T>(v));
  }
}

// dx of N elements with g their gradient behind the norm; adds to Σ g · x̂.
template <class T, int N>
CONCLAVE_DEVICE void backward_pack(T* dx, const acc_t<T> (&g)[N], const Pack<T, N>& x, acc_t<T> r,
                                   acc_t<T> mean, const T* weight, acc_t<T> (&dweight)[N]) {
  const Pack<T, N> w = load<N>(weight);
  acc_t<T> out[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const acc_t<T> normal = wide(x.at[n]) * r;
    out[n] = (g[n] * wide(w.at[n]) - normal * mean) * r;
    dweight[n] += g[n] * rounded<T>(normal);
  }
  store(dx, narrow<T>(out));
}

// What a lane reads of one row; the next row's is on its way while one is worked on.
template <class T, int N, int kPacks>
struct Row {
  Sides<T, N> g[kPacks], x[kPacks];
  acc_t<T> rstd;
  int64_t position;

  template <int kLanes>
  CONCLAVE_DEVICE void read(const T* dy, const HeadNormRotaryArgs<T>& a, int64_t row, int lane) {
    const RotaryArgs<T>& at = a.rotary;
    const int half = at.dim / 2;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (i >= half) continue;
      g[p].read(dy + row * at.dim, i, half);
      x[p].read(at.x + row * at.dim, i, half);
    }
    rstd = a.rstd[row];
    int64_t token;
    int head;
    split(row, at.heads, token, head);
    position = at.positions[token];
  }
};

template <class T, int N, int kLanes, int kPacks>
__global__ void __launch_bounds__(kThreads, kPacks == 1 ? kResident : 1)
    backward_kernel(T* dx, acc_t<T>* parts, const T* dy, const HeadNormRotaryArgs<T> a) {
  using A = acc_t<T>;
  constexpr int kGroups = kThreads / kLanes;
  const RotaryArgs<T>& at = a.rotary;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes, half = at.dim / 2;
  const int64_t rows = at.tokens * at.heads, step = static_cast<int64_t>(gridDim.x) * kGroups;
  A dweight_a[kPacks][N] = {}, dweight_b[kPacks][N] = {};
  int64_t row = static_cast<int64_t>(blockIdx.x) * kGroups + group;
  Row<T, N, kPacks> next;
  if (row < rows) next.template read<kLanes>(dy, a, row, lane);
  // The same number of turns for all threads.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < rows;
       first += step, row += step) {
    const bool active = row < rows;
    const Row<T, N, kPacks> now = next;
    if (row + step < rows) next.template read<kLanes>(dy, a, row + step, lane);
    A u[kPacks][N], v[kPacks][N], dot = 0;
    if (active) {
      const int64_t place = checked_position(at, now.position) * half;
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int i = (p * kLanes + lane) * N;
        if (i >= half) continue;
#pragma unroll
        for (int n = 0; n < N; ++n)
          u[p][n] = wide(now.g[p].a.at[n]), v[p][n] = wide(now.g[p].b.at[n]);
        rotate<N>(u[p], v[p], at.cos + place + i, at.sin + place + i, A(-1));
        const Pack<T, N> wa = load<N>(a.weight + i), wb = load<N>(a.weight + half + i);
#pragma unroll
        for (int n = 0; n < N; ++n)
          dot += u[p][n] * wide(wa.at[n]) * wide(now.x[p].a.at[n]) +
                 v[p][n] * wide(wb.at[n]) * wide(now.x[p].b.at[n]);
      }
    }
    dot = sum_of_lanes<kLanes>(dot);
    if (!active) continue;
    const A r = now.rstd, mean = dot * r / A(at.dim);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (i >= half) continue;
      T* to = dx + row * at.dim + i;
      backward_pack(to, u[p], now.x[p].a, r, mean, a.weight + i, dweight_a[p]);
      backward_pack(to + half, v[p], now.x[p].b, r, mean, a.weight + half + i, dweight_b[p]);
    }
  }
  // A warp's groups by exchange, then the warps one after the other.
  __shared__ A total[kMostHeadDim];
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int apart = kLanes; apart < 32; apart *= 2) {
        dweight_a[p][n] += __shfl_xor_sync(0xffffffffu, dweight_a[p][n], apart);
        dweight_b[p][n] += __shfl_xor_sync(0xffffffffu, dweight_b[p][n], apart);
      }
  for (int warp = 0; warp < kThreads / 32; ++warp) {
    if (threadIdx.x / 32 == warp && threadIdx.x % 32 < kLanes) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int i = (p * kLanes + lane) * N;
        if (i >= half) continue;
#pragma unroll
        for (int n = 0; n < N; ++n) {
          total[i + n] = dweight_a[p][n] + (warp == 0 ? A(0) : total[i + n]);
          total[half + i + n] = dweight_b[p][n] + (warp == 0 ? A(0) : total[half + i + n]);
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < at.dim; i += kThreads)
    parts[static_cast<int64_t>(blockIdx.x) * at.dim + i] = total[i];
}

// f(lanes, packs, elements of a pack) as compile-time constants, for heads of dim elements.
template <class T, int N, class F>
void with_cut(int dim, bool aligned, const F& f) {
  const int packs = dim / 2 / N;
  if (std::is_same_v<T, double> || !aligned || dim / 2 % N != 0 || packs > 32)
    return f.template operator()<32, kMostHeadDim / 64, 1>();
  if constexpr (!std::is_same_v<T, double>) {
    if (packs <= 8)
      f.template operator()<8, 1, N>();
    else if (packs <= 16)
      f.template operator()<16, 1, N>();
    else
      f.template operator()<32, 1, N>();
  }
}

}  // namespace

int64_t head_norm_parts(int64_t rows) {
  return std::min(blocks_of(rows, 8), int64_t{132 * kResident});
}

template <class T>
void head_norm_rotary(const HeadNormRotaryArgs<T>& a, cudaStream_t stream) {
  const RotaryArgs<T>& at = a.rotary;
  const int64_t rows = at.tokens * at.heads;
  if (rows == 0) return;
  with_cut<T, kPack<T>>(
      at.dim, aligned16(0, at.y, at.x, at.cos, at.sin, a.weight),
      [&]<int kLanes, int kPacks, int N>() {
        forward_kernel<T, N, kLanes, kPacks>
            <<<static_cast<unsigned>(blocks_of(rows, kThreads / kLanes)), kThreads, 0, stream>>>(a);
      });
  check_launch("head_norm_rotary");
}

template <class T>
void head_norm_rotary_backward(T* dx, acc_t<T>* dweight, acc_t<T>* parts, const T* dy,
                               const HeadNormRotaryArgs<T>& a, cudaStream_t stream) {
  const RotaryArgs<T>& at = a.rotary;
  const int64_t rows = at.tokens * at.heads;
  int64_t blocks = 0;
  if (rows > 0) {
    with_cut<T, std::min(kPack<T>, 4)>(
        at.dim, aligned16(0, dx, dy, at.x, at.cos, at.sin, a.weight),
        [&]<int kLanes, int kPacks, int N>() {
          blocks = std::min(blocks_of(rows, kThreads / kLanes), head_norm_parts(rows));
          backward_kernel<T, N, kLanes, kPacks>
              <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(dx, parts, dy, a);
        });
    check_launch("head_norm_rotary_backward");
  }
  sum_parts(dweight, parts, blocks, at.dim, false, stream);
}

#define INSTANTIATE(T)                                                           \
  template void head_norm_rotary<T>(const HeadNormRotaryArgs<T>&, cudaStream_t); \
  template void head_norm_rotary_backward<T>(T*, acc_t<T>*, acc_t<T>*, const T*, \
                                             const HeadNormRotaryArgs<T>&, cudaStream_t)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(bf16);

}  // namespace conclave::kernels
