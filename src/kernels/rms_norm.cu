// y = x · rstd · weight, rows cut as kernels/rms_norm_cut.cuh says. As many blocks as the GPU holds
// take every gridDim-th group of rows: the weight stays in L1, and the next rows are on their way
// while one is worked on. (A block for each group read the weight as often as x and left its
// multiprocessor waiting at both ends: 0.73 of a copy at 7,168 bf16 on an H100, 0.81 with a
// residual.) One H100, 2026-11-25, 16,384 rows (bench/kernels_bench.cpp): 0.93 to 0.94 of a copy at
// 2,048, 2,880 and 7,168, 0.94 to 0.95 with a residual.
#include <algorithm>

#include "kernels/rms_norm.h"
#include "kernels/rms_norm_cut.cuh"

namespace conclave::kernels {
namespace {

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

// x + residual as it is rounded; kept in a.sum.
template <class T, int N>
CONCLAVE_DEVICE Pack<T, N> add_pack(const RmsNormArgs<T>& a, int64_t at, const Pack<T, N>& x,
                                    const Pack<T, N>& other) {
  acc_t<T> sum[N];
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n] = wide(x.at[n]) + wide(other.at[n]);
  const Pack<T, N> y = narrow<T>(sum);
  store(a.sum + at, y);
  return y;
}

// A thread's packs of a row.
template <class T, int N, int kLanes, int kPacks, bool kResidual>
struct Row {
  Pack<T, N> x[kPacks], residual[kResidual ? kPacks : 1];

  CONCLAVE_DEVICE void read(const RmsNormArgs<T>& a, int64_t row, int lane) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (i >= a.hidden) continue;
      x[p] = load<N>(a.x + row * a.hidden + i);
      if constexpr (kResidual) residual[p] = load<N>(a.residual + row * a.hidden + i);
    }
  }
  CONCLAVE_DEVICE acc_t<T> add(const RmsNormArgs<T>& a, int64_t row, int lane) {  // Σ x²
    acc_t<T> squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (i >= a.hidden) continue;
      if constexpr (kResidual) x[p] = add_pack(a, row * a.hidden + i, x[p], residual[p]);
#pragma unroll
      for (int n = 0; n < N; ++n) squares += wide(x[p].at[n]) * wide(x[p].at[n]);
    }
    return squares;
  }
};

constexpr int block_of(int lanes) { return lanes > 128 ? lanes : 128; }
// Blocks of a multiprocessor, by the registers that the packs of two rows take.
constexpr int resident(int block, int packs, bool residual) {
  return (packs <= 2 ? (residual ? 768 : 1024) : (residual ? 512 : 768)) / block;
}

template <class T, int N, int kLanes, int kPacks, bool kResidual>
__global__ void __launch_bounds__(block_of(kLanes), resident(block_of(kLanes), kPacks, kResidual))
    forward_kernel(const RmsNormArgs<T> a) {
  using A = acc_t<T>;
  constexpr int kBlock = block_of(kLanes), kGroups = kBlock / kLanes;
  __shared__ A shared[2][kBlock / 32];  // rows take them in turn: one barrier a row
  const int lane = threadIdx.x % kLanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kGroups;
  int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups, row = first + threadIdx.x / kLanes;
  Row<T, N, kLanes, kPacks, kResidual> now, next;
  if (row < a.rows) next.read(a, row, lane);
  for (int turn = 0; first < a.rows; first += step, row += step, turn ^= 1) {
    const bool active = row < a.rows;
    now = next;
    if (row + step < a.rows) next.read(a, row + step, lane);
    const A squares = active ? now.add(a, row, lane) : A(0);
    const A r = a.from_rstd ? (active ? a.rstd[row] : A(0))
                            : rstd_of(row_sum<kLanes>(squares, shared[turn]), a.hidden, a.eps);
    if (!active) continue;
    if (!a.from_rstd && lane == 0) a.rstd[row] = r;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int i = (p * kLanes + lane) * N;
      if (i < a.hidden) scale_pack(a.y + row * a.hidden + i, now.x[p], r, load<N>(a.weight + i));
    }
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
    Pack<T, N> x = load<N>(a.x + start + i);
    if (a.residual) x = add_pack(a, start + i, x, load<N>(a.residual + start + i));
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

}  // namespace

template <class T>
void rms_norm(const RmsNormArgs<T>& a, cudaStream_t stream) {
  if (a.rows == 0 || a.hidden == 0) return;
  const bool aligned = aligned16(0, a.y, a.sum, a.x, a.residual, a.weight);
  const bool cut = with_cut<T>(a.hidden, aligned, [&]<int kLanes, int kPacks>() {
    constexpr int kBlock = block_of(kLanes);
    auto run = [&](auto* kernel, int held) {
      const int64_t blocks =
          std::min<int64_t>(blocks_of(a.rows, kBlock / kLanes), int64_t{held} * multiprocessors());
      kernel<<<static_cast<unsigned>(blocks), kBlock, 0, stream>>>(a);
    };
    constexpr int N = kPack<T>;
    if (a.residual)
      run(forward_kernel<T, N, kLanes, kPacks, true>, resident(kBlock, kPacks, true));
    else
      run(forward_kernel<T, N, kLanes, kPacks, false>, resident(kBlock, kPacks, false));
  });
  const unsigned rows = static_cast<unsigned>(a.rows);
  if (!cut && aligned && a.hidden % kPack<T> == 0)
    forward_any_kernel<T, kPack<T>><<<rows, kRowThreads, 0, stream>>>(a);
  else if (!cut)
    forward_any_kernel<T, 1><<<rows, kRowThreads, 0, stream>>>(a);
  check_launch("rms_norm");
}

template void rms_norm<float>(const RmsNormArgs<float>&, cudaStream_t);
template void rms_norm<double>(const RmsNormArgs<double>&, cudaStream_t);
template void rms_norm<bf16>(const RmsNormArgs<bf16>&, cudaStream_t);

}  // namespace conclave::kernels
