// The main loop of grouped GEMMs on Hopper, out[r] = x[index[r]] · w[e]ᵀ for the rows r of expert
// e, around an epilogue that a Form gives.
//
// One persistent kernel, a block a multiprocessor, 384 threads: warpgroup 2 loads (40 registers),
// warpgroups 0 and 1 multiply, 64 rows × 256 columns each (232 registers). 4 stages of x 128 × 64
// and w 256 × 64, bf16, rows of 128 bytes in the 128-byte swizzle.
//
// w comes by TMA, in two boxes of 128 of its rows. x is gathered by cp.async, 16 bytes a thread;
// rows past an expert's end repeat its last one and are not stored; the indices of the next tile
// are loaded one tile ahead.
//
// The epilogue of a tile runs beside the first k blocks of the next one: sums are rounded to 64
// registers of bf16 pairs, and each k block does one part of the Form's, at most about as long as
// its products take: a store of 16 rows × 64 columns a warp (stmatrix, TMA), or some arithmetic.
// Only warps on an expert's last rows store by hand, masked.
//
// What was tried besides (clusters, one-row TMA boxes, other epilogues: slower): docs/decisions.md.
#pragma once
#include <utility>

#include "kernels/ptx.cuh"

// Named, so that nvcc does not call what only Hopper uses unused when it compiles for others.
namespace conclave::kernels::grouped {

constexpr int kRows = 128, kColumns = 256, kDepth = 64, kStages = 4, kThreads = 384;
constexpr int kBand = 8;  // n tiles that are walked before the next rows: their w stays in L2
constexpr int kMaxExperts = 400;

constexpr int kBytesX = kRows * kDepth * 2, kBytesW = kColumns * kDepth * 2;
constexpr int kStage = kBytesX + kBytesW;
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
constexpr bool kHopper = false;  // an empty kernel, which nobody launches (grouped_gemm_supported)
#endif

struct Params {
  const char* x;  // bytes: rows are depth · 2 apart
  const int *index, *offsets;
  const float* weights;
  const __nv_bfloat16* bias;  // [experts, columns]
  __nv_bfloat16* out;         // [rows, columns]
  __nv_bfloat16* act;         // [rows, columns / 2], for Forms with an activation
  int rows, depth, columns, experts;
  int n_tiles, band;  // n_tiles of the Form's width cover the columns
};

struct Maps {
  CUtensorMap w, out, act;
};

struct Tile {
  int expert, row, end, n;  // the block's first row, the end of the expert's rows, the n tile
};

// Tiles of all experts in one order, dealt round robin to the blocks. Inside an expert: bands of n
// tiles, n fastest.
struct Schedule {
  const int* offsets;
  int next_tile, expert = 0, base = 0;

  CONCLAVE_DEVICE bool next(Tile& tile, const Params& p) {
    for (; expert < p.experts; ++expert) {
      const int begin = offsets[expert], end = offsets[expert + 1];
      const int m_tiles = (end - begin + kRows - 1) / kRows, i = next_tile - base;
      if (i < m_tiles * p.n_tiles) {
        const int band = i / (m_tiles * p.band), in_band = i - band * m_tiles * p.band;
        const int width = min(p.band, p.n_tiles - band * p.band);
        tile = {expert, begin + in_band / width * kRows, end, band * p.band + in_band % width};
        next_tile += gridDim.x;
        return true;
      }
      base += m_tiles * p.n_tiles;
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
};

struct Shared {
  uint32_t base;
  CONCLAVE_DEVICE uint32_t x(int stage) const { return base + stage * kStage; }
  CONCLAVE_DEVICE uint32_t w(int stage) const { return base + stage * kStage + kBytesX; }
  CONCLAVE_DEVICE uint32_t full(int stage) const { return base + kBarriersAt + 8 * stage; }
  CONCLAVE_DEVICE uint32_t empty(int stage) const { return full(kStages + stage); }
  CONCLAVE_DEVICE uint32_t bias(int buffer) const {
    return base + kBiasAt + buffer * 4 * kBiasLane;
  }
};

// A finished tile of a multiplying warp: its 16 rows as pairs of bf16, and where they belong. v[2
// j] is row lane / 4, columns 8 j + 2 (lane mod 4) and the next, v[2 j + 1] the same 8 rows below.
struct Finished {
  uint32_t v[64] = {};
  float weight0 = 0, weight8 = 0;  // of the two rows
  int row = 0, rows = 0,
      n = 0;  // the first row, how many there are (less than 1: none), the n tile
};

struct Epilogue {  // what a part needs beside the tile
  const Params& p;
  const Maps& maps;
  uint32_t staging;
  int lane;
};

// v[at … at + 16), 16 rows × 64 columns, to `column` of a matrix with `ld` columns, by staging
// buffer b of the warp. Full rows go by TMA. Every call commits a group, stored or not, so that all
// but the newest group being read frees this buffer: calls take the two buffers in turn.
template <int kAt>
CONCLAVE_DEVICE void put(const Finished& tile, const Epilogue& e, int b, const CUtensorMap* map,
                         __nv_bfloat16* matrix, int ld, int column) {
  const int lane = e.lane, rows = column < ld ? tile.rows : 0;
  const uint32_t buffer = e.staging + b * 2048;
  if (lane == 0) ptx::tma_store_wait_read<1>();
  __syncwarp();
#pragma unroll
  for (int j = 0; j < 4; ++j)
    ptx::stmatrix4(buffer + lane % 16 * 128 + (((2 * j + lane / 16) ^ (lane & 7)) << 4),
                   tile.v[kAt + 4 * j], tile.v[kAt + 4 * j + 1], tile.v[kAt + 4 * j + 2],
                   tile.v[kAt + 4 * j + 3]);
  ptx::fence_async_proxy();
  __syncwarp();
  if (lane == 0) {
    if (rows >= 16) ptx::tma_store(map, buffer, column, tile.row);
    ptx::tma_store_commit();
  }
  if (rows >= 16 || rows <= 0) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = lane / 8 + 4 * i;
    const uint4 v = ptx::load_shared16(buffer + r * 128 + (((lane ^ r) & 7) << 4));
    if (r < rows)
      *reinterpret_cast<uint4*>(matrix + static_cast<int64_t>(tile.row + r) * ld + column +
                                lane % 8 * 8) = v;
  }
}

// The routing weights of a tile's two rows of this lane; 1 where there are none, 0 past the rows.
CONCLAVE_DEVICE void load_weights(const Params& p, int row, int rows, int lane, float& w0,
                                  float& w8) {
  auto weight = [&](int r) { return r >= rows ? 0.f : p.weights ? p.weights[row + r] : 1.f; };
  w0 = weight(lane / 4), w8 = weight(lane / 4 + 8);
}

// A Form has
//   kParts                       parts of its epilogue; depth ≥ kParts · 64
//   kBias                        whether it takes a bias, and
//   kWeightedBias                whether that is times the routing weight
//   first_row(p, n, half)        of w's 128 rows that make columns 128 · half … of n tile n
//   finish<part>(tile, epilogue) part by part, in order

// The loading warpgroup; t its thread. Thread t copies 16-byte column t mod 8 of rows t / 8 + 16 i,
// to where the swizzle puts it.
template <class Form>
CONCLAVE_DEVICE void load(const Params& p, const Maps& maps, Shared shared, Schedule schedule,
                          int t) {
  const int k_blocks = p.depth / kDepth;
  const uint32_t to0 = t / 8 * 128 + ((t ^ (t / 8)) & 7) * 16;
  const char* from[8];
  int rows[8];
  Tile next;
  auto look_up = [&] {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = min(next.row + t / 8 + 16 * i, next.end - 1);
      rows[i] = p.index ? p.index[row] : row;
    }
  };
  Pipe pipe;
  int tiles = 0;
  bool more = schedule.next(next, p);
  if (more) look_up();
  while (more) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      from[i] = p.x + static_cast<int64_t>(rows[i]) * p.depth * 2 + t % 8 * 16;
    const Tile tile = next;
    more = schedule.next(next, p);
    if (more) look_up();
    for (int k = 0; k < k_blocks; ++k, pipe.step()) {
      ptx::mbarrier_wait(shared.empty(pipe.stage), pipe.phase ^ 1);
      if (t == 0) {
        ptx::mbarrier_expect(shared.full(pipe.stage), kBytesW);
#pragma unroll
        for (int half = 0; half < 2; ++half)  // what lies past w's rows is filled with zeros
          ptx::tma_load(shared.w(pipe.stage) + half * kBytesW / 2, &maps.w, shared.full(pipe.stage),
                        k * kDepth, Form::first_row(p, tile.n, half), tile.expert);
      }
      // Pair t of the tile's bias, for lane t mod 4 of each quad. The buffer is that of two tiles
      // ago: its readers have released a stage of the tile between since, which this k block's
      // stage comes after.
      if (Form::kBias && p.bias && k == 0) {
        const int column = tile.n * kColumns + 2 * t;
        const bool there = column < p.columns;
        const int64_t at = static_cast<int64_t>(tile.expert) * p.columns + column;
        ptx::cp_async4(shared.bias(tiles & 1) + t % 4 * kBiasLane + t / 4 * 4,
                       p.bias + (there ? at : 0), there ? 4 : 0);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        ptx::cp_async16(shared.x(pipe.stage) + to0 + i * 2048, from[i]);
        from[i] += kDepth * 2;
      }
      ptx::cp_async_arrive(shared.full(pipe.stage));
    }
    ++tiles;
  }
}

// A multiplying warpgroup, wg 0 or 1.
template <class Form>
CONCLAVE_DEVICE void multiply(const Params& p, const Maps& maps, Shared shared, Schedule schedule,
                              int wg, int thread) {
  const int lane = thread % 32, warp = thread / 32 % 4, k_blocks = p.depth / kDepth;
  const Epilogue epilogue{p, maps, shared.base + kStagingAt + thread / 32 * 4096, lane};
  float d[128], bias0 = 1, bias8 = 1;  // bias…: what the bias is multiplied with
  Finished before;
  Pipe pipe;
  int in_flight = 0, tiles = 0;

  auto issue = [&](int k) {
    ptx::mbarrier_wait(shared.full(pipe.stage), pipe.phase);
    ptx::fence_async_proxy();  // between cp.async's writes and wgmma's reads
    const uint64_t x = ptx::wgmma_descriptor(shared.x(pipe.stage) + wg * 64 * 128);
    const uint64_t w = ptx::wgmma_descriptor(shared.w(pipe.stage));
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i) ptx::wgmma_n256(d, x + 2 * i, w + 2 * i, k | i);
    ptx::wgmma_commit();
  };
  auto release = [&](int stage) {
    if (lane == 0) ptx::mbarrier_arrive(shared.empty(stage));
  };
  // The products of the k block before are done; its stage may be loaded again.
  auto retire = [&](int k) {
    ptx::wgmma_wait<1>();
    if (k) release(in_flight);
    in_flight = pipe.stage;
    pipe.step();
  };
  using Parts = std::make_integer_sequence<int, Form::kParts>;

  Tile tile;
  while (schedule.next(tile, p)) {
    const int row = tile.row + wg * 64 + warp * 16;
    if (Form::kWeightedBias && p.bias) load_weights(p, row, tile.end - row, lane, bias0, bias8);
    [&]<int... part>(std::integer_sequence<int, part...>) {
      ((issue(part), Form::template finish<part>(before, epilogue), retire(part)), ...);
    }
    (Parts());
    for (int k = Form::kParts; k < k_blocks; ++k) issue(k), retire(k);
    ptx::wgmma_wait<0>();
    if (Form::kBias && p.bias) {
      const uint32_t mine = shared.bias(tiles & 1) + lane % 4 * kBiasLane;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint4 b = ptx::load_shared16(mine + 16 * i);
        const uint32_t pairs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int j = 4 * i; j < 4 * i + 4; ++j) {
          const float b0 = ptx::low(pairs[j % 4]), b1 = ptx::high(pairs[j % 4]);
          before.v[2 * j] = ptx::pack(d[4 * j] + b0 * bias0, d[4 * j + 1] + b1 * bias0);
          before.v[2 * j + 1] = ptx::pack(d[4 * j + 2] + b0 * bias8, d[4 * j + 3] + b1 * bias8);
        }
      }
      __syncwarp();  // all lanes have read the bias when lane 0 releases the next stage
    } else {
#pragma unroll
      for (int i = 0; i < 64; ++i) before.v[i] = ptx::pack(d[2 * i], d[2 * i + 1]);
    }
    release(in_flight);
    before.row = row;
    before.rows = tile.end - row;
    before.n = tile.n;
    ++tiles;
  }
  [&]<int... part>(std::integer_sequence<int, part...>) {
    (Form::template finish<part>(before, epilogue), ...);
  }
  (Parts());
  if (lane == 0) ptx::tma_store_wait();
}

template <class Form>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_gemm_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Params p) {
  if constexpr (kHopper) {
    extern __shared__ __align__(1024) uint8_t bytes[];
    const Shared shared{ptx::smem(bytes)};
    int* offsets = reinterpret_cast<int*>(bytes + kOffsetsAt);
    const int thread = threadIdx.x, wg = thread / 128;
    // Rows that do not fit are cut off: whoever counted them says so.
    for (int i = thread; i <= p.experts; i += kThreads) offsets[i] = min(p.offsets[i], p.rows);
    if (thread == 0) {
      for (int s = 0; s < kStages; ++s) {
        ptx::mbarrier_init(shared.full(s), 128 + 1);  // the loading threads, and w's announcement
        ptx::mbarrier_init(shared.empty(s), 8);       // the multiplying warps
      }
      ptx::mbarrier_fence_init();
      ptx::tma_prefetch(&maps.w);
    }
    __syncthreads();
    const Schedule schedule{offsets, static_cast<int>(blockIdx.x)};
    if (wg == 2) {
      ptx::fewer_registers<40>();
      load<Form>(p, maps, shared, schedule, thread - 256);
    } else {
      ptx::more_registers<232>();
      multiply<Form>(p, maps, shared, schedule, wg, thread);
    }
  }
}

}  // namespace conclave::kernels::grouped
