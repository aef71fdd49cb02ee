// A block of 256 sums 32,768 neighbouring elements, each thread every 256th pack, in fp64, which
// keeps up with the reading on GPUs that compute fp64 at half the rate of fp32; one block of 1,024
// adds up the blocks.
#include "kernels/pack.cuh"
#include "kernels/squared_sum.h"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kBlock = 32768, kStrands = 1024;

template <class T, int N>
__global__ void __launch_bounds__(kThreads) parts_kernel(double* parts, const T* x, int64_t n) {
  __shared__ double shared[kThreads / 32];
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kBlock,
                end = begin + kBlock < n ? begin + kBlock : n;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * N; i < end; i += kThreads * N) {
    if (i + N <= end) {
      const Pack<T, N> pack = load<N>(x + i);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const double value = wide(pack.at[k]);
        sum += value * value;
      }
    } else {
      for (int64_t k = i; k < end; ++k) {
        const double value = wide(x[k]);
        sum += value * value;
      }
    }
  }
  sum = sum_of_block<kThreads>(sum, shared);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kStrands)
    add_sum_kernel(double* sum, const double* from, int64_t n) {
  __shared__ double shared[kStrands / 32];
  double strand = 0;
  for (int64_t i = threadIdx.x; i < n; i += kStrands) strand += from[i];
  strand = sum_of_block<kStrands>(strand, shared);
  if (threadIdx.x == 0) *sum += strand;
}

}  // namespace

int64_t squared_sum_parts(int64_t n) { return blocks_of(n, kBlock); }

template <class T>
void squared_sum(double* sum, double* parts, const T* x, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  const unsigned blocks = static_cast<unsigned>(squared_sum_parts(n));
  if (aligned16(0, x))
    parts_kernel<T, kPack<T>><<<blocks, kThreads, 0, stream>>>(parts, x, n);
  else
    parts_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(parts, x, n);
  check_launch("squared_sum");
  add_sum(sum, parts, blocks, stream);
}

void add_sum(double* sum, const double* from, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  add_sum_kernel<<<1, kStrands, 0, stream>>>(sum, from, n);
  check_launch("add_sum");
}

template void squared_sum<float>(double*, double*, const float*, int64_t, cudaStream_t);
template void squared_sum<double>(double*, double*, const double*, int64_t, cudaStream_t);
template void squared_sum<bf16>(double*, double*, const bf16*, int64_t, cudaStream_t);

}  // namespace conclave::kernels
