// Choices that no router made, for benchmarks and tests: equal loads, and uniform ones.
#include "kernels/philox.cuh"
#include "kernels/route.h"

namespace conclave::kernels {
namespace {

__global__ void balanced_kernel(int64_t* ids, int64_t pairs, int experts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < pairs) ids[i] = i % experts;
}

// conclave::below: a whole number under n.
CONCLAVE_DEVICE uint64_t below(uint64_t n, uint64_t seed, uint64_t stream, uint64_t index) {
  uint64_t first, second;
  philox(seed, index, stream, first, second);
  return __umul64hi(first, n);
}

// A thread a token: Floyd's sampling, as ops/router.cpp says.
__global__ void uniform_kernel(int64_t* ids, int64_t tokens, int top_k, int experts, uint64_t seed,
                               uint64_t stream) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (token >= tokens) return;
  int64_t* mine = ids + token * top_k;
  for (int j = 0; j < top_k; ++j) {
    const int64_t last = experts - top_k + j;
    const int64_t drawn = static_cast<int64_t>(below(static_cast<uint64_t>(last + 1), seed, stream,
                                                     static_cast<uint64_t>(token * top_k + j)));
    bool there = false;
    for (int i = 0; i < j; ++i) there |= mine[i] == drawn;
    mine[j] = there ? last : drawn;
  }
}

constexpr int kThreads = 256;
int blocks_in(int64_t n) { return static_cast<int>((n + kThreads - 1) / kThreads); }

}  // namespace

void balanced_ids(int64_t* ids, int64_t pairs, int experts, cudaStream_t stream) {
  if (pairs == 0) return;
  balanced_kernel<<<blocks_in(pairs), kThreads, 0, stream>>>(ids, pairs, experts);
  check_launch("balanced_ids");
}

void uniform_ids(int64_t* ids, int64_t tokens, int top_k, int experts, uint64_t seed,
                 uint64_t stream_number, cudaStream_t stream) {
  if (tokens == 0) return;
  uniform_kernel<<<blocks_in(tokens), kThreads, 0, stream>>>(ids, tokens, top_k, experts, seed,
                                                             stream_number);
  check_launch("uniform_ids");
}

}  // namespace conclave::kernels
