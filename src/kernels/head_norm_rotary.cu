// kLanes lanes hold a head, each kPacks times the packs at i and at i + half: both sides of its
// pairs, so nothing is exchanged but the sum of squares. 256 threads a block.
//
// The backward's blocks take every gridDim-th group of rows, read the next one while they work on
// one, and keep Σ dy · x̂ of their columns in registers; a block adds its groups in fixed order,
// kernels/reduce the blocks. It has some 20 operations an element: bf16 is taken apart two at a
// time, and nothing that columns or rows share is done again (0.70 of a copy at 32 heads of 128 on
// an H100 before). Packs of 4: with 8 half as many threads have room.
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

// x · r · weight as the norm by itself would store it.
template <class T, int N>
CONCLAVE_DEVICE void normed(acc_t<T> (&x)[N], acc_t<T> r, const T* weight) {
  acc_t<T> w[N];
  widen(w, load<N>(weight));
#pragma unroll
  for (int n = 0; n < N; ++n) x[n] *= r;
  round_to<T>(x);
#pragma unroll
  for (int n = 0; n < N; ++n) x[n] *= w[n];
  round_to<T>(x);
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
    A u[N], v[N];
    widen(u, x[p].a);
    widen(v, x[p].b);
#pragma unroll
    for (int n = 0; n < N; ++n) squares += u[n] * u[n] + v[n] * v[n];
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
    widen(u, x[p].a);
    widen(v, x[p].b);
    normed(u, r, a.weight + i);
    normed(v, r, a.weight + half + i);
    rotate<N>(u, v, at.cos + place + i, at.sin + place + i, A(1));
    store(at.y + row * at.dim + i, narrow<T>(u));
    store(at.y + row * at.dim + half + i, narrow<T>(v));
  }
}

// N elements of a row on one side of its pairs, in the backward: g their gradient behind the norm.
template <class T, int N>
struct Side {
  using A = acc_t<T>;
  A weighted[N], normal[N];  // g · weight, x · rstd

  // Adds to Σ g · x̂; gives Σ g · weight · x · rstd.
  CONCLAVE_DEVICE A begin(const A (&g)[N], const Pack<T, N>& x, const Pack<T, N>& weight, A r,
                          A (&dweight)[N]) {
    A w[N], rounded[N], dot = 0;
    widen(normal, x);
    widen(w, weight);
#pragma unroll
    for (int n = 0; n < N; ++n) rounded[n] = normal[n] *= r;
    round_to<T>(rounded);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      dweight[n] += g[n] * rounded[n];
      weighted[n] = g[n] * w[n];
      dot += weighted[n] * normal[n];
    }
    return dot;
  }
  CONCLAVE_DEVICE void end(T* dx, A r, A mean) {
    A out[N];
#pragma unroll
    for (int n = 0; n < N; ++n) out[n] = (weighted[n] - normal[n] * mean) * r;
    store(dx, narrow<T>(out));
  }
};

// What a lane reads of one row; the next row's is on its way while one is worked on.
template <class T, int N, int kPacks>
struct Row {
  Sides<T, N> g[kPacks], x[kPacks];
  acc_t<T> rstd;
  int64_t position;

  template <int kLanes>
  CONCLAVE_DEVICE void read(const T* dy, const HeadNormRotaryArgs<T>& a, int64_t row, int64_t token,
                            int lane) {
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
  Sides<T, N> weight[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (p * kLanes + lane) * N;
    if (i < half) weight[p].read(a.weight, i, half);
  }
  int64_t row = static_cast<int64_t>(blockIdx.x) * kGroups + group;
  // The token of the row that is read next, and what comes on top of it by a step: no division a
  // row.
  int64_t token, tokens_a_step;
  int head, heads_a_step;
  split(row, at.heads, token, head);
  split(step, at.heads, tokens_a_step, heads_a_step);
  Row<T, N, kPacks> next;
  auto read = [&](int64_t row) {
    if (row >= rows) return;
    next.template read<kLanes>(dy, a, row, token, lane);
    token += tokens_a_step;
    head += heads_a_step;
    if (head >= at.heads) head -= at.heads, ++token;
  };
  read(row);
  // The same number of turns for all threads.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < rows;
       first += step, row += step) {
    const bool active = row < rows;
    const Row<T, N, kPacks> now = next;
    read(row + step);
    Side<T, N> side_a[kPacks], side_b[kPacks];
    A dot = 0;
    if (active) {
      const int64_t place = checked_position(at, now.position) * half;
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int i = (p * kLanes + lane) * N;
        if (i >= half) continue;
        A u[N], v[N];
        widen(u, now.g[p].a);
        widen(v, now.g[p].b);
        rotate<N>(u, v, at.cos + place + i, at.sin + place + i, A(-1));
        dot += side_a[p].begin(u, now.x[p].a, weight[p].a, now.rstd, dweight_a[p]);
        dot += side_b[p].begin(v, now.x[p].b, weight[p].b, now.rstd, dweight_b[p]);
      }
    }
    const A mean = sum_of_lanes<kLanes>(dot) / A(at.dim);
    if (!active) continue;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (i >= half) continue;
      side_a[p].end(dx + row * at.dim + i, now.rstd, mean);
      side_b[p].end(dx + row * at.dim + half + i, now.rstd, mean);
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
