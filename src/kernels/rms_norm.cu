// A row belongs to kLanes threads of one warp, or to a block of 128, each with kPacks packs of it
// in registers, so a row is read once: all loads are in flight before the first sum. 128 threads a
// block. Rows that no such cut fits (odd lengths, fp64, over 8,192 bf16) go through the last kernel
// of each pair, a block of 256 a row, which reads it twice.
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

constexpr int kThreads = 128, kRowThreads = 256;

// Σ over the threads of a row.
template <int kLanes, class A>
CONCLAVE_DEVICE A row_sum(A v, A* shared) {
  if constexpr (kLanes <= 32)
    return sum_of_lanes<kLanes>(v);
  else
    return sum_of_block<kLanes>(v, shared);
}

template <class A>
CONCLAVE_DEVICE A rstd_of(A squares, int64_t hidden, double eps) {
  return A(1) / sqrt(squares / A(hidden) + A(eps));
}

// y of one pack.
template <class T, int N>
CONCLAVE_DEVICE void scale_pack(T* y, const Pack<T, N>& x, acc_t<T> r, const T* weight) {
  const Pack<T, N> w = load<N>(weight);
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
__global__ void __launch_bounds__(kThreads) forward_kernel(const RmsNormArgs<T> a) {
  using A = acc_t<T>;
  __shared__ A shared[kThreads / 32];
  const int lane = threadIdx.x % kLanes, hidden = static_cast<int>(a.hidden);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  const bool active = row < a.rows;
  Pack<T, N> x[kPacks];
  A squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int i = (p * kLanes + lane) * N;
    if (active && i < hidden) x[p] = read_pack<T, N>(a, row * hidden + i);
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
    if (i < hidden) scale_pack(a.y + row * hidden + i, x[p], r, a.weight + i);
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
    scale_pack(a.y + start + i, load<N>(from + start + i), r, a.weight + i);
}

// dx of one pack; adds to the columns' Σ dy · x̂.
template <class T, int N>
CONCLAVE_DEVICE void backward_pack(const RmsNormBackwardArgs<T>& a, int64_t at, int64_t column,
                                   const Pack<T, N>& dy, const Pack<T, N>& x, acc_t<T> r,
                                   acc_t<T> mean, acc_t<T> (&dweight)[N]) {
  using A = acc_t<T>;
  const Pack<T, N> w = load<N>(a.weight + column);
  A dx[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const A g = wide(dy.at[n]), normal = wide(x.at[n]) * r;
    dx[n] = (g * wide(w.at[n]) - normal * mean) * r;
    dweight[n] += g * rounded<T>(normal);
  }
  if (a.dsum) {
    const Pack<T, N> other = load<N>(a.dsum + at);
#pragma unroll
    for (int n = 0; n < N; ++n) dx[n] += wide(other.at[n]);
  }
  store(a.dx + at, narrow<T>(dx));
}

template <class T, int N>
CONCLAVE_DEVICE acc_t<T> dot_of_pack(const Pack<T, N>& dy, const Pack<T, N>& x, const T* weight) {
  const Pack<T, N> w = load<N>(weight);
  acc_t<T> dot = 0;
#pragma unroll
  for (int n = 0; n < N; ++n) dot += wide(dy.at[n]) * wide(w.at[n]) * wide(x.at[n]);
  return dot;
}

template <class T, int N, int kLanes, int kPacks>
__global__ void __launch_bounds__(kThreads) backward_kernel(const RmsNormBackwardArgs<T> a) {
  using A = acc_t<T>;
  constexpr int kGroups = kThreads / kLanes;
  __shared__ A shared[kThreads / 32];
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes,
            hidden = static_cast<int>(a.hidden);
  A dweight[kPacks][N] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < a.rows;
       first += static_cast<int64_t>(gridDim.x) * kGroups) {  // the same for all threads
    const int64_t row = first + group;
    const bool active = row < a.rows;
    Pack<T, N> dy[kPacks], x[kPacks];
    A dot = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (!active || i >= hidden) continue;
      dy[p] = load<N>(a.dy + row * hidden + i);
      x[p] = load<N>(a.x + row * hidden + i);
    }
    const A r = active ? a.rstd[row] : A(0);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (active && i < hidden) dot += dot_of_pack(dy[p], x[p], a.weight + i);
    }
    const A mean = row_sum<kLanes>(dot, shared) * r / A(hidden);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (active && i < hidden)
        backward_pack(a, row * hidden + i, i, dy[p], x[p], r, mean, dweight[p]);
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
    for (int64_t i = threadIdx.x * N; i < a.hidden; i += kRowThreads * N)
      dot += dot_of_pack(load<N>(a.dy + start + i), load<N>(a.x + start + i), a.weight + i);
    const A r = a.rstd[row], mean = sum_of_block<kRowThreads>(dot, shared) * r / A(a.hidden);
    for (int64_t i = threadIdx.x * N; i < a.hidden; i += kRowThreads * N) {
      A dweight[N] = {};
      backward_pack(a, start + i, i, load<N>(a.dy + start + i), load<N>(a.x + start + i), r, mean,
                    dweight);
#pragma unroll
      for (int n = 0; n < N; ++n) part[i + n] += dweight[n];
    }
  }
}

// How a row is cut: threads a row and packs a thread.
enum class Cut { lanes16, lanes32, lanes32x4, lanes32x8, block4, block8, any, odd };

template <class T>
Cut cut_of(int64_t hidden, bool aligned) {
  if (std::is_same_v<T, double> || !aligned || hidden % kPack<T>) return Cut::odd;
  const int64_t packs = hidden / kPack<T>;
  return packs <= 16     ? Cut::lanes16
         : packs <= 32   ? Cut::lanes32
         : packs <= 128  ? Cut::lanes32x4
         : packs <= 256  ? Cut::lanes32x8
         : packs <= 512  ? Cut::block4
         : packs <= 1024 ? Cut::block8
                         : Cut::any;
}

template <class T, int kLanes, int kPacks>
void launch_forward(const RmsNormArgs<T>& a, cudaStream_t stream) {
  forward_kernel<T, kPack<T>, kLanes, kPacks>
      <<<static_cast<unsigned>(blocks_of(a.rows, kThreads / kLanes)), kThreads, 0, stream>>>(a);
}

// Blocks of the backward: what fits a GPU of 132 multiprocessors at once by the kernels' registers.
int64_t most_parts(Cut cut) {
  switch (cut) {
    case Cut::lanes16:
    case Cut::lanes32:
      return 132 * 12;
    case Cut::lanes32x4:
    case Cut::block4:
      return 132 * 5;
    case Cut::lanes32x8:
    case Cut::block8:
      return 132 * 3;
    default:
      return 132 * 4;
  }
}

int64_t parts_of(Cut cut, int64_t rows) {
  const int64_t groups = cut == Cut::lanes16 ? kThreads / 16
                         : cut == Cut::lanes32 || cut == Cut::lanes32x4 || cut == Cut::lanes32x8
                             ? kThreads / 32
                             : 1;
  return std::min(blocks_of(rows, groups), most_parts(cut));
}

template <class T, int kLanes, int kPacks>
void launch_backward(const RmsNormBackwardArgs<T>& a, unsigned blocks, cudaStream_t stream) {
  backward_kernel<T, kPack<T>, kLanes, kPacks><<<blocks, kThreads, 0, stream>>>(a);
}

}  // namespace

template <class T>
void rms_norm(const RmsNormArgs<T>& a, cudaStream_t stream) {
  if (a.rows == 0 || a.hidden == 0) return;
  const Cut cut = cut_of<T>(a.hidden, aligned16(0, a.y, a.sum, a.x, a.residual, a.weight));
  const unsigned rows = static_cast<unsigned>(a.rows);
  if constexpr (!std::is_same_v<T, double>) {
    switch (cut) {
      case Cut::lanes16:
        launch_forward<T, 16, 1>(a, stream);
        break;
      case Cut::lanes32:
        launch_forward<T, 32, 1>(a, stream);
        break;
      case Cut::lanes32x4:
        launch_forward<T, 32, 4>(a, stream);
        break;
      case Cut::lanes32x8:
        launch_forward<T, 32, 8>(a, stream);
        break;
      case Cut::block4:
        launch_forward<T, 128, 4>(a, stream);
        break;
      case Cut::block8:
        launch_forward<T, 128, 8>(a, stream);
        break;
      case Cut::any:
        forward_any_kernel<T, kPack<T>><<<rows, kRowThreads, 0, stream>>>(a);
        break;
      case Cut::odd:
        forward_any_kernel<T, 1><<<rows, kRowThreads, 0, stream>>>(a);
    }
  } else {
    forward_any_kernel<T, 1><<<rows, kRowThreads, 0, stream>>>(a);
  }
  check_launch("rms_norm");
}

template <class T>
int64_t rms_norm_parts(int64_t rows, int64_t hidden) {
  // Whether pointers are aligned is not known here: room for either cut.
  return std::max(parts_of(cut_of<T>(hidden, true), rows), parts_of(Cut::odd, rows));
}

template <class T>
void rms_norm_backward(const RmsNormBackwardArgs<T>& a, cudaStream_t stream) {
  const Cut cut = cut_of<T>(a.hidden, aligned16(0, a.dx, a.dy, a.x, a.dsum, a.weight, a.parts));
  const unsigned blocks = static_cast<unsigned>(a.hidden == 0 ? 0 : parts_of(cut, a.rows));
  if (blocks > 0) {
    if constexpr (!std::is_same_v<T, double>) {
      switch (cut) {
        case Cut::lanes16:
          launch_backward<T, 16, 1>(a, blocks, stream);
          break;
        case Cut::lanes32:
          launch_backward<T, 32, 1>(a, blocks, stream);
          break;
        case Cut::lanes32x4:
          launch_backward<T, 32, 4>(a, blocks, stream);
          break;
        case Cut::lanes32x8:
          launch_backward<T, 32, 8>(a, blocks, stream);
          break;
        case Cut::block4:
          launch_backward<T, 128, 4>(a, blocks, stream);
          break;
        case Cut::block8:
          launch_backward<T, 128, 8>(a, blocks, stream);
          break;
        case Cut::any:
          backward_any_kernel<T, kPack<T>><<<blocks, kRowThreads, 0, stream>>>(a);
          break;
        case Cut::odd:
          backward_any_kernel<T, 1><<<blocks, kRowThreads, 0, stream>>>(a);
      }
    } else {
      backward_any_kernel<T, 1><<<blocks, kRowThreads, 0, stream>>>(a);
    }
    check_launch("rms_norm_backward");
  }
  sum_parts(a.dweight, a.parts, blocks, a.hidden, false, stream);
}

#define INSTANTIATE(T)                                                             \
  template void rms_norm<T>(const RmsNormArgs<T>&, cudaStream_t);                  \
  template void rms_norm_backward<T>(const RmsNormBackwardArgs<T>&, cudaStream_t); \
  template int64_t rms_norm_parts<T>(int64_t, int64_t)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(bf16);

}  // namespace conclave::kernels
