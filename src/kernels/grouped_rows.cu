// grouped_bias: a block a row, threads along the columns. grouped_bias_backward: a block an expert
// and 64 columns; 8 warps take every 8th row, a lane two columns; warps are summed in order.
// grouped_bias_backward_weights: a warp a row. add_expert_gradients: grid (pieces, experts), 8
// elements a thread.
#include <cuda_bf16.h>

#include "kernels/grouped_rows.h"
#include "kernels/launch.h"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ float widened(float v) { return v; }
__device__ __forceinline__ float widened(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T>
__device__ __forceinline__ T narrowed(float v);
template <>
__device__ __forceinline__ float narrowed<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrowed<__nv_bfloat16>(float v) {
  return __float2bfloat16(v);
}

// The expert of a row below offsets[experts]: the last e with offsets[e] ≤ row.
__device__ int expert_of(const int32_t* offsets, int experts, int64_t row) {
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
    to[i] = narrowed<T>(widened(to[i]) + widened(from[i]) * weight);
}

template <class T, class Sum>
__global__ void __launch_bounds__(kThreads)
    bias_backward_kernel(const int32_t* offsets, int64_t rows, int64_t columns, Sum* dbias,
                         const T* dy, const float* weights) {
  __shared__ float sums[kWarps][64];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, expert = blockIdx.y;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 64 + lane;
  const int64_t end = min(static_cast<int64_t>(offsets[expert + 1]), rows);
  const bool first = column < columns, second = column + 32 < columns;
  float sum0 = 0, sum1 = 0;
#pragma unroll 8
  for (int64_t row = offsets[expert] + warp; row < end; row += kWarps) {
    const float weight = weights ? weights[row] : 1.f;
    const T* from = dy + row * columns + column;
    if (first) sum0 += widened(from[0]) * weight;
    if (second) sum1 += widened(from[32]) * weight;
  }
  sums[warp][lane] = sum0;
  sums[warp][lane + 32] = sum1;
  __syncthreads();
  const int64_t mine = static_cast<int64_t>(blockIdx.x) * 64 + threadIdx.x;
  if (threadIdx.x >= 64 || mine >= columns) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += sums[w][threadIdx.x];
  Sum& to = dbias[expert * columns + mine];
  to = narrowed<Sum>(widened(to) + sum);
}

template <class T>
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
    for (int64_t i = lane; i < columns; i += 32) sum += widened(from[i]) * widened(with[i]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  }
  if (lane == 0) dweights[row] = sum;
}

// Eight elements as floats.
struct Eight {
  float v[8];
};
__device__ __forceinline__ Eight load8(const float* from) {
  Eight x;
  *reinterpret_cast<float4*>(x.v) = *reinterpret_cast<const float4*>(from);
  *reinterpret_cast<float4*>(x.v + 4) = *reinterpret_cast<const float4*>(from + 4);
  return x;
}
__device__ __forceinline__ Eight load8(const __nv_bfloat16* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
  Eight x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x.v[2 * i] = __uint_as_float(pairs[i] << 16);
    x.v[2 * i + 1] = __uint_as_float(pairs[i] & 0xFFFF0000u);
  }
  return x;
}
__device__ __forceinline__ void store8(float* to, const Eight& x) {
  *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(x.v);
  *reinterpret_cast<float4*>(to + 4) = *reinterpret_cast<const float4*>(x.v + 4);
}
__device__ __forceinline__ void store8(__nv_bfloat16* to, const Eight& x) {
  __nv_bfloat162 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(x.v[2 * i], x.v[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(pairs);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    add_gradients_kernel(T* to, int64_t to_stride, const __nv_bfloat16* from,
                         const int32_t* offsets, int64_t size) {
  const int expert = blockIdx.y;
  if (offsets[expert] == offsets[expert + 1]) return;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= size) return;
  const Eight more = load8(from + expert * size + i);
  Eight sum = load8(to + expert * to_stride + i);
#pragma unroll
  for (int j = 0; j < 8; ++j) sum.v[j] += more.v[j];
  store8(to + expert * to_stride + i, sum);
}

// f(element of the type) with T* for void*.
template <class F>
void by_type(RowType type, const F& f) {
  if (type == RowType::bf16)
    f(__nv_bfloat16());
  else
    f(float());
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
      bias_backward_kernel<T, Sum>
          <<<grid, kThreads, 0, stream>>>(p.offsets, p.rows, p.columns, static_cast<Sum*>(dbias),
                                          static_cast<const T*>(dy), weights);
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
    bias_backward_weights_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(p.offsets, p.experts, p.rows, p.columns, dweights,
                                          static_cast<const T*>(dy), static_cast<const T*>(bias));
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
        static_cast<T*>(to), to_stride, static_cast<const __nv_bfloat16*>(from), offsets, size);
  });
  check_launch("add_expert_gradients");
}

}  // namespace conclave::kernels
