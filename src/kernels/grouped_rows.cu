// grouped_bias: a block a row, threads along the columns. grouped_bias_backward: a block an expert
// and 64 columns, a thread a pack of every so many rows; the threads of a column are summed in
// order. grouped_bias_backward_weights: a warp a row. add_expert_gradients: grid (pieces, experts),
// 8 elements a thread.
// One H100, 2026-11-25: the gradients of a bias and of its weights at 0.90 of a copy's rate at
// 65,536 × 2,880 (bench/kernels_bench.cpp).
#include "kernels/grouped_rows.h"
#include "kernels/pack.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// The expert of a row below offsets[experts]: the last e with offsets[e] ≤ row.
CONCLAVE_DEVICE int expert_of(const int32_t* offsets, int experts, int64_t row) {
  int low = 0, high = experts;  // offsets[low] ≤ row < offsets[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(const int32_t* offsets, int experts, int64_t columns, T* y, const T* bias,
                const float* weights) {
  const int64_t row = blockIdx.x;
  if (row >= offsets[experts]) return;
  const T* from = bias + expert_of(offsets, experts, row) * columns;
  T* to = y + row * columns;
  const float weight = weights ? weights[row] : 1.f;
  for (int64_t i = threadIdx.x; i < columns; i += kThreads)
    to[i] = narrow<T>(wide(to[i]) + wide(from[i]) * weight);
}

template <class T, class Sum, int N>
__global__ void __launch_bounds__(kThreads)
    bias_backward_kernel(const int32_t* offsets, int64_t rows, int64_t columns, Sum* dbias,
                         const T* dy, const float* weights) {
  constexpr int kColumns = 64, kAcross = kColumns / N, kDown = kThreads / kAcross;
  __shared__ float sums[kDown][kColumns];
  const int x = threadIdx.x % kAcross * N, y = threadIdx.x / kAcross, expert = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kColumns;
  const int64_t end = min(static_cast<int64_t>(offsets[expert + 1]), rows);
  float sum[N] = {};
  if (first + x < columns) {
#pragma unroll 8
    for (int64_t row = offsets[expert] + y; row < end; row += kDown) {
      const float weight = weights ? weights[row] : 1.f;
      const Pack<T, N> v = load<N>(dy + row * columns + first + x);
#pragma unroll
      for (int n = 0; n < N; ++n) sum[n] += wide(v.at[n]) * weight;
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) sums[y][x + n] = sum[n];
  __syncthreads();
  const int64_t mine = first + threadIdx.x;
  if (threadIdx.x >= kColumns || mine >= columns) return;
  float total = 0;
  for (int i = 0; i < kDown; ++i) total += sums[i][threadIdx.x];
  Sum& to = dbias[expert * columns + mine];
  to = narrow<Sum>(wide(to) + total);
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    bias_backward_weights_kernel(const int32_t* offsets, int experts, int64_t rows, int64_t columns,
                                 float* dweights, const T* dy, const T* bias) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0;
  if (row < offsets[experts]) {
    const T* with = bias + expert_of(offsets, experts, row) * columns;
    const T* from = dy + row * columns;
#pragma unroll 4
    for (int64_t i = lane * N; i < columns; i += 32 * N) {
      const Pack<T, N> v = load<N>(from + i), b = load<N>(with + i);
#pragma unroll
      for (int n = 0; n < N; ++n) sum += wide(v.at[n]) * wide(b.at[n]);
    }
    sum = sum_of_lanes<32>(sum);
  }
  if (lane == 0) dweights[row] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    add_gradients_kernel(T* to, int64_t to_stride, const bf16* from, const int32_t* offsets,
                         int64_t size) {
  const int expert = blockIdx.y;
  if (offsets[expert] == offsets[expert + 1]) return;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= size) return;
  const Pack<bf16, 8> more = load<8>(from + expert * size + i);
  const Pack<T, 8> before = load<8>(to + expert * to_stride + i);
  float sum[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) sum[j] = wide(before.at[j]) + wide(more.at[j]);
  store(to + expert * to_stride + i, narrow<T>(sum));
}

// f(element of the type) with T* for void*.
template <class F>
void by_type(RowType type, const F& f) {
  if (type == RowType::bf16)
    f(bf16());
  else
    f(float());
}

// Whether rows can be read in packs.
template <class T, class... P>
bool packs(const GroupedRows& p, const P*... pointers) {
  return aligned16(p.columns * static_cast<int64_t>(sizeof(T)), pointers...);
}

}  // namespace

void grouped_bias(const GroupedRows& p, void* y, const void* bias, const float* weights,
                  cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return;
  by_type(p.type, [&](auto element) {
    using T = decltype(element);
    bias_kernel<T><<<static_cast<unsigned>(p.rows), kThreads, 0, stream>>>(
        p.offsets, p.experts, p.columns, static_cast<T*>(y), static_cast<const T*>(bias), weights);
  });
  check_launch("grouped_bias");
}

void grouped_bias_backward(const GroupedRows& p, void* dbias, RowType sum_type, const void* dy,
                           const float* weights, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return;
  const dim3 grid(static_cast<unsigned>((p.columns + 63) / 64), p.experts);
  by_type(p.type, [&](auto element) {
    by_type(sum_type, [&](auto sum) {
      using T = decltype(element);
      using Sum = decltype(sum);
      auto run = [&](auto* kernel) {
        kernel<<<grid, kThreads, 0, stream>>>(p.offsets, p.rows, p.columns,
                                              static_cast<Sum*>(dbias), static_cast<const T*>(dy),
                                              weights);
      };
      if (packs<T>(p, dy))
        run(bias_backward_kernel<T, Sum, kPack<T>>);
      else
        run(bias_backward_kernel<T, Sum, 1>);
    });
  });
  check_launch("grouped_bias_backward");
}

void grouped_bias_backward_weights(const GroupedRows& p, float* dweights, const void* dy,
                                   const void* bias, cudaStream_t stream) {
  if (p.rows == 0) return;
  const unsigned blocks = static_cast<unsigned>((p.rows + kWarps - 1) / kWarps);
  by_type(p.type, [&](auto element) {
    using T = decltype(element);
    auto run = [&](auto* kernel) {
      kernel<<<blocks, kThreads, 0, stream>>>(p.offsets, p.experts, p.rows, p.columns, dweights,
                                              static_cast<const T*>(dy),
                                              static_cast<const T*>(bias));
    };
    if (packs<T>(p, dy, bias))
      run(bias_backward_weights_kernel<T, kPack<T>>);
    else
      run(bias_backward_weights_kernel<T, 1>);
  });
  check_launch("grouped_bias_backward_weights");
}

void add_expert_gradients(void* to, RowType to_type, int64_t to_stride, const void* from,
                          const int32_t* offsets, int experts, int64_t m, int64_t n,
                          cudaStream_t stream) {
  const int64_t size = m * n, pieces = (size / 8 + kThreads - 1) / kThreads;
  if (size == 0 || experts == 0) return;
  by_type(to_type, [&](auto element) {
    using T = decltype(element);
    add_gradients_kernel<T><<<dim3(static_cast<unsigned>(pieces), experts), kThreads, 0, stream>>>(
        static_cast<T*>(to), to_stride, static_cast<const bf16*>(from), offsets, size);
  });
  check_launch("add_expert_gradients");
}

}  // namespace conclave::kernels
