// dx = rstd · (g − x̂ · mean(g · x̂)) with g = dy · weight; dweight = Σ dy · x̂, x̂ as it was rounded.
// Rows are cut as kernels/rms_norm_cut.cuh says.
//
// Blocks take every gridDim-th group of rows and keep Σ dy · x̂ of their columns in registers; the
// groups of a block are added in order, its sum is one part, and kernels/reduce adds the parts. The
// number of blocks depends on the sizes alone.
//
// One H100, 2026-11-25, 16,384 rows beside a copy of as many bytes (bench/kernels_bench.cpp): 0.89
// to 0.95 of its rate at 2,048, 2,880 and 7,168; 0.92 to 0.97 with a residual's gradient.
#include <algorithm>

#include "kernels/reduce.h"
#include "kernels/rms_norm.h"
#include "kernels/rms_norm_cut.cuh"

namespace conclave::kernels {
namespace {

constexpr int kBackThreads = 256;

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

// Blocks of the backward: what 132 multiprocessors hold at once, whatever the GPU.
int64_t parts_of(int64_t rows, int lanes, int packs) {
  return std::min<int64_t>(blocks_of(rows, kBackThreads / lanes), 132 * resident(packs));
}
int64_t any_parts_of(int64_t rows) { return std::min<int64_t>(rows, 132 * 4); }

}  // namespace

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
  template void rms_norm_backward<T>(const RmsNormBackwardArgs<T>&, cudaStream_t); \
  template int64_t rms_norm_parts<T>(int64_t, int64_t)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(bf16);

}  // namespace conclave::kernels
