// Layout: a thread a token. (1) counts the token's ranks, scanned within a block; (2) one block
// scans the blocks' sums; (3) each token writes its rows of the buffer. A token has at most 64
// slots, compared pair by pair. Rows: a block a row, threads along it, 16 bytes each where
// addresses and widths allow.
#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/receive_buffer.h"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kScan = 1024, kMostSlots = 64;

// Inclusive sum over the block's threads; `room` holds a number a warp.
__device__ int block_sum(int v, int* room) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, v, step);
    if (lane >= step) v += other;
  }
  if (lane == 31) room[warp] = v;
  __syncthreads();
  int before = 0;
  for (int w = 0; w < warp; ++w) before += room[w];
  __syncthreads();
  return before + v;
}

struct Ranks {
  int of[kMostSlots];
};

// The ranks of a token's slots. Reads nothing past the last token.
__device__ void load_ranks(const ReceiveLayout& p, int64_t token, Ranks& r) {
  for (int j = 0; j < p.top_k; ++j)
    r.of[j] = static_cast<int>(p.ids[token * p.top_k + j] / p.local);
}

// Slot j is the first of its rank.
__device__ bool first_of_rank(const Ranks& r, int j) {
  for (int i = 0; i < j; ++i)
    if (r.of[i] == r.of[j]) return false;
  return true;
}

__device__ int count_ranks(const Ranks& r, int top_k) {
  int n = 0;
  for (int j = 0; j < top_k; ++j) n += first_of_rank(r, j);
  return n;
}

__global__ void __launch_bounds__(kThreads) count_kernel(const ReceiveLayout p) {
  __shared__ int room[kThreads / 32];
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  int n = 0;
  if (token < p.tokens) {
    Ranks r;
    load_ranks(p, token, r);
    n = count_ranks(r, p.top_k);
  }
  const int end = block_sum(n, room);
  if (token < p.tokens) p.token_begin[token + 1] = end;
  if (threadIdx.x == kThreads - 1) p.sums[blockIdx.x] = end;
}

// sums[b] becomes what is before block b; sums[blocks] the total.
__global__ void __launch_bounds__(kScan) scan_kernel(int32_t* sums, int blocks) {
  __shared__ int room[kScan / 32];
  __shared__ int carried;
  int before = 0;
  for (int first = 0; first < blocks; first += kScan) {
    const int b = first + static_cast<int>(threadIdx.x), n = b < blocks ? sums[b] : 0;
    const int end = before + block_sum(n, room);
    if (b < blocks) sums[b] = end - n;
    if (threadIdx.x == kScan - 1) carried = end;
    __syncthreads();
    before = carried;
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blocks] = before;
}

__global__ void __launch_bounds__(kThreads) place_kernel(const ReceiveLayout p, int blocks) {
  const int64_t routed = p.tokens * p.top_k, total = p.sums[blocks],
                token = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = total + token; i <= p.capacity;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    if (i < p.capacity) p.token[i] = 0;
    p.pair_begin[i] = static_cast<int32_t>(routed);
  }
  if (token == 0) p.token_begin[0] = 0;
  if (token >= p.tokens) return;
  Ranks r;
  load_ranks(p, token, r);
  const int end = p.sums[blockIdx.x] + p.token_begin[token + 1],
            begin = end - count_ranks(r, p.top_k);
  p.token_begin[token + 1] = end;
  for (int j = 0; j < p.top_k; ++j) {
    int lower = 0, lower_ranks = 0, equal_before = 0;  // slots of lower ranks, these ranks
    for (int i = 0; i < p.top_k; ++i) {
      if (r.of[i] < r.of[j]) ++lower, lower_ranks += first_of_rank(r, i);
      equal_before += i < j && r.of[i] == r.of[j];
    }
    const int row = p.row[token * p.top_k + j], at = begin + lower_ranks;
    p.pairs[token * p.top_k + lower + equal_before] = row;
    p.buffer_row[row] = at;
    if (equal_before > 0) continue;
    p.token[at] = static_cast<int32_t>(token);
    p.pair_begin[at] = static_cast<int32_t>(token * p.top_k + lower);
  }
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    take_kernel(Unit* out, const Unit* x, const int32_t* index, const int32_t* count,
                int64_t units) {
  const int64_t row = blockIdx.x;
  if (count && row >= *count) return;
  const Unit* from = x + index[row] * units;
  for (int64_t i = threadIdx.x; i < units; i += kThreads) out[row * units + i] = from[i];
}

// kWidth elements from `from` are added to sum, or written.
template <int kWidth>
__device__ __forceinline__ void add(float (&sum)[kWidth], const float* from) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum[i] += from[i];
}
template <int kWidth>
__device__ __forceinline__ void add(float (&sum)[kWidth], const bf16* from) {
  bf16 v[kWidth];
  if constexpr (kWidth == 8)
    *reinterpret_cast<uint4*>(v) = *reinterpret_cast<const uint4*>(from);
  else
    v[0] = from[0];
#pragma unroll
  for (int i = 0; i < kWidth; ++i)
    sum[i] += __uint_as_float(static_cast<uint32_t>(v[i].bits) << 16);
}
template <int kWidth>
__device__ __forceinline__ void write(float* to, const float (&sum)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) to[i] = sum[i];
}
template <int kWidth>
__device__ __forceinline__ void write(bf16* to, const float (&sum)[kWidth]) {
  bf16 v[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) v[i].bits = __bfloat16_as_ushort(__float2bfloat16(sum[i]));
  if constexpr (kWidth == 8)
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(v);
  else
    to[0] = v[0];
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(T* out, const T* rows, const int32_t* index, const int32_t* begin,
               const int32_t* count, int64_t hidden) {
  const int64_t s = blockIdx.x;
  if (count && s >= *count) return;
  const int first = begin[s], last = begin[s + 1];
  for (int64_t c = threadIdx.x * kWidth; c < hidden; c += kThreads * kWidth) {
    float sum[kWidth] = {};
    for (int i = first; i < last; ++i) add<kWidth>(sum, rows + (index ? index[i] : i) * hidden + c);
    write<kWidth>(out + s * hidden + c, sum);
  }
}

}  // namespace

int64_t receive_layout_blocks(int64_t tokens) { return (tokens + kThreads - 1) / kThreads; }

void receive_layout(const ReceiveLayout& p, cudaStream_t stream) {
  const int blocks = static_cast<int>(receive_layout_blocks(p.tokens));
  if (blocks > 0) count_kernel<<<blocks, kThreads, 0, stream>>>(p);
  scan_kernel<<<1, kScan, 0, stream>>>(p.sums, blocks);
  const int at_least_one = std::max(blocks, 1);
  place_kernel<<<at_least_one, kThreads, 0, stream>>>(p, blocks);
  check_launch("receive_layout");
}

void take_rows(void* out, const void* x, const int32_t* index, int64_t n, const int32_t* count,
               int64_t bytes, cudaStream_t stream) {
  if (n == 0 || bytes == 0) return;
  const auto blocks = static_cast<unsigned>(n);
  if (aligned16(bytes, out, x))
    take_kernel<<<blocks, kThreads, 0, stream>>>(
        static_cast<uint4*>(out), static_cast<const uint4*>(x), index, count, bytes / 16);
  else
    take_kernel<<<blocks, kThreads, 0, stream>>>(
        static_cast<uint8_t*>(out), static_cast<const uint8_t*>(x), index, count, bytes);
  check_launch("take_rows");
}

template <class T>
void sum_segments(T* out, const T* rows, const int32_t* index, const int32_t* begin,
                  int64_t segments, const int32_t* count, int64_t hidden, cudaStream_t stream) {
  if (segments == 0 || hidden == 0) return;
  const auto blocks = static_cast<unsigned>(segments);
  if (hidden % 8 == 0 && aligned16(0, out, rows))
    sum_kernel<T, 8><<<blocks, kThreads, 0, stream>>>(out, rows, index, begin, count, hidden);
  else
    sum_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(out, rows, index, begin, count, hidden);
  check_launch("sum_segments");
}
template void sum_segments(float*, const float*, const int32_t*, const int32_t*, int64_t,
                           const int32_t*, int64_t, cudaStream_t);
template void sum_segments(bf16*, const bf16*, const int32_t*, const int32_t*, int64_t,
                           const int32_t*, int64_t, cudaStream_t);

}  // namespace conclave::kernels
