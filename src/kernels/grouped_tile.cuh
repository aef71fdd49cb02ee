// What the grouped GEMMs on Hopper share: tiles of 128 × 256 of the result, the order in which
// blocks take them, the ring of stages in shared memory, and how a warp stages what it stores.
//
// A persistent kernel, a block a multiprocessor, 384 threads: warpgroup 2 loads (40 registers),
// warpgroups 0 and 1 multiply, 64 rows × 256 columns each (232 registers). 4 stages of operands,
// 128 × 64 and 256 × 64 of bf16, rows of 128 bytes in the 128-byte swizzle.
#pragma once
#include "kernels/ptx.cuh"

// Named, so that nvcc does not call what only Hopper uses unused when it compiles for others.
namespace conclave::kernels::grouped {

constexpr int kRows = 128, kColumns = 256, kDepth = 64, kStages = 4, kThreads = 384;
constexpr int kBand = 8;  // n tiles that are walked before the next rows: their operand stays in L2
constexpr int kMaxExperts = 400;

constexpr int kBytesX = kRows * kDepth * 2, kBytesW = kColumns * kDepth * 2;
constexpr int kStage = kBytesX + kBytesW;
constexpr int kBlock = 64 * 128;                    // 64 rows of 128 bytes
constexpr int kStagingAt = kStages * kStage;        // two buffers of 2 KB a multiplying warp
constexpr int kBarriersAt = kStagingAt + 8 * 4096;  // full, empty
constexpr int kOffsetsAt = kBarriersAt + 16 * kStages;
constexpr int kBiasAt = 231168;         // two buffers of a tile's 256, as 32 pairs a lane of four
constexpr int kBiasLane = 32 * 4 + 16;  // the lanes' parts begin in different banks
constexpr int kSharedBytes = kBiasAt + 2 * 4 * kBiasLane;
static_assert(kOffsetsAt + 4 * (kMaxExperts + 1) <= kBiasAt);
static_assert(kSharedBytes <= 227 * 1024);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;  // an empty kernel, which nobody launches (kernels/hopper.h)
#endif

struct Tile {
  int expert, begin, end;  // the expert's rows
  int m, n;                // which of the expert's tiles
};

// Whether a matrix of so many columns fills at most the tile's first 128: half the products do.
CONCLAVE_DEVICE bool is_narrow(const Tile& tile, int columns) {
  return columns - tile.n * kColumns <= kColumns / 2;
}

// Tiles of all experts in one order, dealt round robin to the blocks. Inside an expert: bands of n
// tiles, n fastest.
struct Schedule {
  const int* offsets;
  int experts, n_tiles, band;
  int next_tile, expert = 0, base = 0;

  // m_tiles(rows): how many tiles high an expert with so many rows is.
  template <class F>
  CONCLAVE_DEVICE bool next(Tile& tile, const F& m_tiles) {
    for (; expert < experts; ++expert) {
      const int begin = offsets[expert], end = offsets[expert + 1], high = m_tiles(end - begin);
      const int i = next_tile - base;
      if (i < high * n_tiles) {
        const int first = i / (high * band), in_band = i - first * high * band;
        const int width = min(band, n_tiles - first * band);
        tile = {expert, begin, end, in_band / width, first * band + in_band % width};
        next_tile += gridDim.x;
        return true;
      }
      base += high * n_tiles;
    }
    return false;
  }
};

struct Pipe {
  int stage = 0;
  uint32_t phase = 0;
  CONCLAVE_DEVICE void step() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  CONCLAVE_DEVICE void skip(int steps) {
    stage += steps;
    phase ^= stage / kStages & 1;
    stage %= kStages;
  }
};

struct Shared {
  uint32_t base;
  CONCLAVE_DEVICE uint32_t x(int stage) const { return base + stage * kStage; }
  CONCLAVE_DEVICE uint32_t w(int stage) const { return base + stage * kStage + kBytesX; }
  CONCLAVE_DEVICE uint32_t full(int stage) const { return base + kBarriersAt + 8 * stage; }
  CONCLAVE_DEVICE uint32_t empty(int stage) const { return full(kStages + stage); }
  CONCLAVE_DEVICE uint32_t staging(int warp) const { return base + kStagingAt + warp * 4096; }
  CONCLAVE_DEVICE uint32_t bias(int buffer) const {
    return base + kBiasAt + buffer * 4 * kBiasLane;
  }
};

// By all threads at the start: the experts' offsets, no further than `rows`, and the barriers; a
// stage is full after `arrivals` (and the bytes they announce), empty after the 8 multiplying
// warps'.
CONCLAVE_DEVICE void prepare(Shared shared, int* to, const int* offsets, int experts, int rows,
                             int arrivals) {
  for (int i = threadIdx.x; i <= experts; i += kThreads) to[i] = min(offsets[i], rows);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      ptx::mbarrier_init(shared.full(s), arrivals);
      ptx::mbarrier_init(shared.empty(s), 8);
    }
    ptx::mbarrier_fence_init();
  }
  __syncthreads();
}

// v[kAt … kAt + 16) of a warp, pairs of bf16 (v[2 j]: row lane / 4, columns 8 j + 2 (lane mod 4)
// and the next; v[2 j + 1]: 8 rows below): 16 rows × 64 columns to a buffer, as TMA stores take
// them.
template <int kAt>
CONCLAVE_DEVICE void stage_pairs(const uint32_t (&v)[64], uint32_t buffer, int lane) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
    ptx::stmatrix4(buffer + lane % 16 * 128 + (((2 * j + lane / 16) ^ (lane & 7)) << 4),
                   v[kAt + 4 * j], v[kAt + 4 * j + 1], v[kAt + 4 * j + 2], v[kAt + 4 * j + 3]);
}

// Before a warp fills one of its two buffers, and after: lane 0 then starts its TMA store, or none,
// and commits a group either way, so that all but the newest group being read frees a buffer.
CONCLAVE_DEVICE void wait_for_buffer(int lane) {
  if (lane == 0) ptx::tma_store_wait_read<1>();
  __syncwarp();
}
CONCLAVE_DEVICE void buffer_filled() {
  ptx::fence_async_proxy();
  __syncwarp();
}

}  // namespace conclave::kernels::grouped
