// A stable counting sort. Blocks take kChunk pairs each: (1) each counts its pairs by expert, in
// shared memory; (2) one block turns the counts, block after block, into the first row that a
// block's pairs of an expert get, and writes the offsets; (3) each block ranks its pairs: a warp by
// matching ids among its lanes, the warps of a block by a scan of their counts.
#include "kernels/expert_layout.h"
#include "kernels/launch.h"

namespace conclave::kernels {
namespace {

constexpr int kChunk = 1024, kWarps = kChunk / 32;

__device__ int checked_id(const int64_t* ids, int64_t pair, int experts) {
  const int64_t id = ids[pair];
  if (id < 0 || id >= experts) __trap();
  return static_cast<int>(id);
}

__global__ void __launch_bounds__(kChunk)
    count_kernel(const int64_t* ids, int64_t routed, int experts, int32_t* counts) {
  extern __shared__ int histogram[];
  for (int e = threadIdx.x; e < experts; e += kChunk) histogram[e] = 0;
  __syncthreads();
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x;
  if (pair < routed) atomicAdd(&histogram[checked_id(ids, pair, experts)], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kChunk)
    counts[static_cast<int64_t>(blockIdx.x) * experts + e] = histogram[e];
}

__device__ int warp_inclusive_sum(int v, int lane) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, v, step);
    if (lane >= step) v += other;
  }
  return v;
}

// One block. Warp w takes experts w, w + kWarps, …; its lanes take blocks of pairs.
__global__ void __launch_bounds__(kChunk)
    scan_kernel(int32_t* counts, int blocks, int experts, int32_t* offsets) {
  __shared__ int begins[kMostExperts + 1];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int e = warp; e < experts; e += kWarps) {
    int total = 0;
    for (int b = lane; b < blocks; b += 32) total += counts[static_cast<int64_t>(b) * experts + e];
    total = __reduce_add_sync(0xFFFFFFFFu, total);
    if (lane == 0) begins[e + 1] = total;
  }
  if (threadIdx.x == 0) begins[0] = 0;
  __syncthreads();
  if (warp == 0) {  // totals to ends, 32 experts at a time
    int before = 0;
    for (int first = 0; first < experts; first += 32) {
      const int e = first + lane;
      const int end = before + warp_inclusive_sum(e < experts ? begins[e + 1] : 0, lane);
      if (e < experts) begins[e + 1] = end;
      before = __shfl_sync(0xFFFFFFFFu, end, 31);
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e <= experts; e += kChunk) offsets[e] = begins[e];
  for (int e = warp; e < experts; e += kWarps) {
    int next = begins[e];
    for (int first = 0; first < blocks; first += 32) {
      const int b = first + lane;
      int32_t* at = counts + static_cast<int64_t>(b) * experts + e;
      const int count = b < blocks ? *at : 0, end = next + warp_inclusive_sum(count, lane);
      if (b < blocks) *at = end - count;
      next = __shfl_sync(0xFFFFFFFFu, end, 31);
    }
  }
}

__global__ void __launch_bounds__(kChunk)
    place_kernel(const int64_t* ids, int64_t routed, int experts, const int32_t* begins,
                 int32_t* pairs, int32_t* rows) {
  extern __shared__ uint16_t of_warp[];  // [kWarps][experts]: pairs of the warps so far
  for (int i = threadIdx.x; i < kWarps * experts; i += kChunk) of_warp[i] = 0;
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x;
  const int expert = pair < routed ? checked_id(ids, pair, experts) : -1;
  const unsigned same = __match_any_sync(0xFFFFFFFFu, expert);
  const int rank = __popc(same & ((1u << lane) - 1));
  if (expert >= 0 && rank == 0) of_warp[warp * experts + expert] = __popc(same);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kChunk) {
    int before = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int count = of_warp[w * experts + e];
      of_warp[w * experts + e] = before;
      before += count;
    }
  }
  __syncthreads();
  if (expert < 0) return;
  const int row = begins[static_cast<int64_t>(blockIdx.x) * experts + expert] +
                  of_warp[warp * experts + expert] + rank;
  pairs[row] = static_cast<int32_t>(pair);
  rows[pair] = row;
}

}  // namespace

int64_t expert_layout_blocks(int64_t routed) { return (routed + kChunk - 1) / kChunk; }

void expert_layout(const ExpertLayout& p, cudaStream_t stream) {
  const int blocks = static_cast<int>(expert_layout_blocks(p.routed));
  if (blocks > 0)
    count_kernel<<<blocks, kChunk, p.experts * sizeof(int), stream>>>(p.ids, p.routed, p.experts,
                                                                      p.counts);
  scan_kernel<<<1, kChunk, 0, stream>>>(p.counts, blocks, p.experts, p.offsets);
  if (blocks > 0)
    place_kernel<<<blocks, kChunk, kWarps * p.experts * sizeof(uint16_t), stream>>>(
        p.ids, p.routed, p.experts, p.counts, p.pair, p.row);
  check_launch("expert_layout");
}

}  // namespace conclave::kernels
