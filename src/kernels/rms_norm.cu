// A row belongs to kLanes threads, 16 or 32 of one warp or 128 or 256 of a block, each with kPacks
// packs of it in registers, so a row is read once: all loads, those of the weight too, are in
// flight before the first sum. Few packs a thread and many threads a row do better than the other
// way round (a warp with 8 packs a lane reached 73 % of a copy at 2,048 bf16 on an H100). Rows that
// no such cut fits (odd lengths, fp64, over 8,192 bf16) go through the last kernel of each pair, a
// block a row, which reads it twice.
//
// The backward's blocks take every gridDim-th group of rows and keep Σ dy · x̂ of their columns in
// registers; the groups of a block are added in order, its sum is one part, and kernels/reduce adds
// the parts. The number of blocks depends on the sizes alone.
// dx = rstd · (g − x̂ · mean(g · x̂)) with g = dy · weight; dweight = Σ dy · x̂, x̂ as it was rounded.
#include <algorithm>

#include "kernels/pack.cuh"
#include "kernels/reduce.h"
#include "kernels/rms_norm.h"

namespace conclave::kernels {
namespace {

// Threads of a block: of the forward, of the backward, and where a block takes a row of any length.
constexpr int kThreads = 128, kBackThreads = 256, kRowThreads = 256;

// Σ over the kLanes threads of a row, the same value in each. All threads of the block call it;
// parts [threads / 32] may be used again at once, by who uses two of them in turn.
template <int kLanes, class A>
CONCLAVE_DEVICE A row_sum(A v, A* parts) {
  if constexpr (kLanes <= 32) return sum_of_lanes<kLanes>(v);
  v = sum_of_lanes<32>(v);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  A sum = 0;
#pragma unroll
  for (int i = 0; i < kLanes / 32; ++i) sum += parts[threadIdx.x / kLanes * (kLanes / 32) + i];
  return sum;
}

template <class A>
CONCLAVE_DEVICE A rstd_of(A squares, int64_t hidden, double eps) {
  return A(1) / sqrt(squares / A(hidden) + A(eps));
}

// y of one pack.
template <class T, int N>
CONCLAVE_DEVICE void scale_pack(T* y, const Pack<T, N>& x, acc_t<T> r, const Pack<T, N>& w) {
  acc_t<T> out[N];
#pragma unroll
  for (int n = 0; n < N; ++n) out[n] = rounded<T>(wide(x.at[n]) * r) * wide(w.at[n]);
  store(y, narrow<T>(out));
}

// x, or x + residual as it is rounded and kept.
template <class T, int N>
CONCLAVE_DEVICE Pack<T, N> read_pack(const RmsNormArgs<T>& a, int64_t at) {
  Pack<T, N> x = load<N>(a.x + at);
  if (!a.residual) return x;
  const Pack<T, N> other = load<N>(a.residual + at);
  acc_t<T> sum[N];
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n] = wide(x.at[n]) + wide(other.at[n]);
  x = narrow<T>(sum);
  store(a.sum + at, x);
  return x;
}

template <class T, int N, int kLanes, int kPacks>
__global__ void __launch_bounds__(kLanes > kThreads ? kLanes : kThreads)
    forward_kernel(const RmsNormArgs<T> a) {
  using A = acc_t<T>;
  constexpr int kBlock = kLanes > kThreads ? kLanes : kThreads;
  __shared__ A shared[kBlock / 32];
  const int lane = threadIdx.x % kLanes, hidden = static_cast<int>(a.hidden);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kBlock / kLanes) + threadIdx.x / kLanes;
  const bool active = row < a.rows;
  Pack<T, N> x[kPacks], w[kPacks];
  A squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (p * kLanes + lane) * N;
    if (!active || i >= hidden) continue;
    x[p] = read_pack<T, N>(a, row * hidden + i);
    w[p] = load<N>(a.weight + i);
  }
  if (!a.from_rstd) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (active && (p * kLanes + lane) * N < hidden)
#pragma unroll
        for (int n = 0; n < N; ++n) squares += wide(x[p].at[n]) * wide(x[p].at[n]);
    squares = row_sum<kLanes>(squares, shared);
  }
  if (!active) return;
  const A r = a.from_rstd ? a.rstd[row] : rstd_of(squares, hidden, a.eps);
  if (!a.from_rstd && lane == 0) a.rstd[row] = r;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (p * kLanes + lane) * N;
    if (i < hidden) scale_pack(a.y + row * hidden + i, x[p], r, w[p]);
  }
}

// Any length of rows that are N-aligned; a block a row.
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) forward_any_kernel(const RmsNormArgs<T> a) {
  using A = acc_t<T>;
  __shared__ A shared[kRowThreads / 32];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * a.hidden;
  A squares = 0;
  for (int64_t i = threadIdx.x * N; i < a.hidden; i += kRowThreads * N) {
    const Pack<T, N> x = read_pack<T, N>(a, start + i);
#pragma unroll
    for (int n = 0; n < N; ++n) squares += wide(x.at[n]) * wide(x.at[n]);
  }
  A r;
  if (a.from_rstd) {
    r = a.rstd[blockIdx.x];
  } else {
    r = rstd_of(sum_of_block<kRowThreads>(squares, shared), a.hidden, a.eps);
    if (threadIdx.x == 0) a.rstd[blockIdx.x] = r;
  }
  const T* from = a.residual ? a.sum : a.x;  // each thread reads what it wrote itself
  for (int64_t i = threadIdx.x * N; i < a.hidden; i += kRowThreads * N)
    scale_pack(a.y + start + i, load<N>(from + start + i), r, load<N>(a.weight + i));
}

// What the backward reads of one pack.
template <class T, int N>
struct Operands {
  Pack<T, N> dy, x, w, dsum;

  CONCLAVE_DEVICE void read(const RmsNormBackwardArgs<T>& a, int64_t start, int64_t column) {
    dy = load<N>(a.dy + start + column);
    x = load<N>(a.x + start + column);
    if (a.dsum) dsum = load<N>(a.dsum + start + column);
    w = load<N>(a.weight + column);
  }
  CONCLAVE_DEVICE acc_t<T> dot() const {
    acc_t<T> sum = 0;
#pragma unroll
    for (int n = 0; n < N; ++n) sum += wide(dy.at[n]) * wide(w.at[n]) * wide(x.at[n]);
    return sum;
  }
};

// dx of one pack; adds to the columns' Σ dy · x̂.
template <class T, int N>
CONCLAVE_DEVICE void backward_pack(const RmsNormBackwardArgs<T>& a, int64_t at,
                                   const Operands<T, N>& o, acc_t<T> r, acc_t<T> mean,
                                   acc_t<T> (&dweight)[N]) {
  using A = acc_t<T>;
  A dx[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const A g = wide(o.dy.at[n]), normal = wide(o.x.at[n]) * r;
    dx[n] = (g * wide(o.w.at[n]) - normal * mean) * r;
    dweight[n] += g * rounded<T>(normal);
  }
  if (a.dsum)
#pragma unroll
    for (int n = 0; n < N; ++n) dx[n] += wide(o.dsum.at[n]);
  store(a.dx + at, narrow<T>(dx));
}

// Blocks of a multiprocessor by the registers that kPacks packs take.
constexpr int resident(int packs) { return packs == 1 ? 4 : packs == 2 ? 3 : 2; }

template <class T, int N, int kLanes, int kPacks>
__global__ void __launch_bounds__(kBackThreads, resident(kPacks))
    backward_kernel(const RmsNormBackwardArgs<T> a) {
  using A = acc_t<T>;
  constexpr int kGroups = kBackThreads / kLanes;
  __shared__ A shared[2][kBackThreads / 32];  // rows take them in turn: one barrier a row
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes,
            hidden = static_cast<int>(a.hidden);
  A dweight[kPacks][N] = {};
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < a.rows;
       first += static_cast<int64_t>(gridDim.x) * kGroups) {  // the same for all threads
    const int64_t row = first + group;
    const bool active = row < a.rows;
    Operands<T, N> o[kPacks];
    A dot = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (active && i < hidden) o[p].read(a, row * hidden, i);
    }
    const A r = active ? a.rstd[row] : A(0);
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (active && (p * kLanes + lane) * N < hidden) dot += o[p].dot();
    const A mean = row_sum<kLanes>(dot, shared[turn]) * r / A(hidden);
    turn ^= 1;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (active && i < hidden) backward_pack(a, row * hidden + i, o[p], r, mean, dweight[p]);
    }
  }
  // The groups one after the other, in order.
  A* part = a.parts + static_cast<int64_t>(blockIdx.x) * hidden;
  for (int g = 0; g < kGroups; ++g) {
    if (group == g) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int i = (p * kLanes + lane) * N;
        if (i >= hidden) continue;
        Pack<A, N> sum = {};
        if (g > 0) sum = load<N>(part + i);
#pragma unroll
        for (int n = 0; n < N; ++n) sum.at[n] += dweight[p][n];
        store(part + i, sum);
      }
    }
    __syncthreads();  // orders global memory among the block's threads too
  }
}

// A thread keeps to its columns, so it alone reads and writes their part.
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads) backward_any_kernel(const RmsNormBackwardArgs<T> a) {
  using A = acc_t<T>;
  __shared__ A shared[kRowThreads / 32];
  A* part = a.parts + blockIdx.x * a.hidden;
  for (int64_t i = threadIdx.x * N; i < a.hidden; i += kRowThreads * N)
#pragma unroll
    for (int n = 0; n < N; ++n) part[i + n] = 0;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t start = row * a.hidden;
    A dot = 0;
    for (int64_t i = threadIdx.x * N; i < a.hidden; i += kRowThreads * N) {
      Operands<T, N> o;
      o.read(a, start, i);
      dot += o.dot();
    }
    const A r = a.rstd[row], mean = sum_of_block<kRowThreads>(dot, shared) * r / A(a.hidden);
    for (int64_t i = threadIdx.x * N; i < a.hidden; i += kRowThreads * N) {
      A dweight[N] = {};
      Operands<T, N> o;
      o.read(a, start, i);
      backward_pack(a, start + i, o, r, mean, dweight);
#pragma unroll
      for (int n = 0; n < N; ++n) part[i + n] += dweight[n];
    }
  }
}

// f(threads a row, packs a thread) as compile-time constants, or false where none fits rows of
// `hidden` elements.
template <class T, class F>
bool with_cut(int64_t hidden, bool aligned, const F& f) {
  if constexpr (!std::is_same_v<T, double>) {
    if (!aligned || hidden % kPack<T>) return false;
    const int64_t packs = hidden / kPack<T>;
    if (packs <= 16)
      f.template operator()<16, 1>();
    else if (packs <= 32)
      f.template operator()<32, 1>();
    else if (packs <= 128)
      f.template operator()<32, 4>();
    else if (packs <= 256)
      f.template operator()<128, 2>();
    else if (packs <= 384)
      f.template operator()<128, 3>();
    else if (packs <= 512)
      f.template operator()<128, 4>();
    else if (packs <= 1024)
      f.template operator()<256, 4>();
    else
      return false;
    return true;
  }
  return false;
}

// Blocks of the backward: what 132 multiprocessors hold at once, whatever the GPU.
int64_t parts_of(int64_t rows, int lanes, int packs) {
  return std::min<int64_t>(blocks_of(rows, kBackThreads / lanes), 132 * resident(packs));
}
int64_t any_parts_of(int64_t rows) { return std::min<int64_t>(rows, 132 * 4); }

}  // namespace

template <class T>
void rms_norm(const RmsNormArgs<T>& a, cudaStream_t stream) {
  if (a.rows == 0 || a.hidden == 0) return;
  const bool aligned = aligned16(0, a.y, a.sum, a.x, a.residual, a.weight);
  const bool cut = with_cut<T>(a.hidden, aligned, [&]<int kLanes, int kPacks>() {
    constexpr int kBlock = std::max(kLanes, kThreads);
    forward_kernel<T, kPack<T>, kLanes, kPacks>
        <<<static_cast<unsigned>(blocks_of(a.rows, kBlock / kLanes)), kBlock, 0, stream>>>(a);
  });
  const unsigned rows = static_cast<unsigned>(a.rows);
  if (!cut && aligned && a.hidden % kPack<T> == 0)
    forward_any_kernel<T, kPack<T>><<<rows, kRowThreads, 0, stream>>>(a);
  else if (!cut)
    forward_any_kernel<T, 1><<<rows, kRowThreads, 0, stream>>>(a);
  check_launch("rms_norm");
}

template <class T>
int64_t rms_norm_parts(int64_t rows, int64_t hidden) {
  int64_t parts = any_parts_of(rows);  // whether pointers are aligned is not known here
  with_cut<T>(hidden, true, [&]<int kLanes, int kPacks>() {
    parts = std::max(parts, parts_of(rows, kLanes, kPacks));
  });
  return parts;
}

template <class T>
void rms_norm_backward(const RmsNormBackwardArgs<T>& a, cudaStream_t stream) {
  int64_t parts = 0;
  if (a.rows > 0 && a.hidden > 0) {
    const bool aligned = aligned16(0, a.dx, a.dy, a.x, a.dsum, a.weight, a.parts);
    const bool cut = with_cut<T>(a.hidden, aligned, [&]<int kLanes, int kPacks>() {
      parts = parts_of(a.rows, kLanes, kPacks);
      backward_kernel<T, kPack<T>, kLanes, kPacks>
          <<<static_cast<unsigned>(parts), kBackThreads, 0, stream>>>(a);
    });
    if (!cut) parts = any_parts_of(a.rows);
    if (!cut && aligned && a.hidden % kPack<T> == 0)
      backward_any_kernel<T, kPack<T>><<<static_cast<unsigned>(parts), kRowThreads, 0, stream>>>(a);
    else if (!cut)
      backward_any_kernel<T, 1><<<static_cast<unsigned>(parts), kRowThreads, 0, stream>>>(a);
    check_launch("rms_norm_backward");
  }
  sum_parts(a.dweight, a.parts, parts, a.hidden, false, stream);
}

#define INSTANTIATE(T)                                                             \
  template void rms_norm<T>(const RmsNormArgs<T>&, cudaStream_t);                  \
  template void rms_norm_backward<T>(const RmsNormBackwardArgs<T>&, cudaStream_t); \
  template int64_t rms_norm_parts<T>(int64_t, int64_t)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(bf16);

}  // namespace conclave::kernels
