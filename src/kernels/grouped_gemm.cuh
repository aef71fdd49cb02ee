// The main loop of grouped GEMMs on Hopper over the rows r of expert e,
//   out[r] = x[index[r]] · w[e]ᵀ, or x[index[r]] · w[e]
// around an epilogue that a Form gives. Tiles, stages and warps: kernels/grouped_tile.cuh.
//
// w comes by TMA: 256 of its rows × 64 of k in two boxes, or 64 rows (k) × 256 columns in four,
// which the tensor cores take as they lie. Without an index so does x; with one it is gathered by
// cp.async, 16 bytes a thread, and the indices of the next tile are loaded one tile ahead. Rows
// past an expert's end are its last one again, or what follows: they are not stored.
//
// The epilogue of a tile runs beside the first k blocks of the next one: sums are rounded to 64
// registers of bf16 pairs, and each k block does one part of the Form's, at most about as long as
// its products take: a store of 16 rows × 64 columns a warp (stmatrix, TMA), or some arithmetic.
// Only warps on an expert's last rows store by hand, masked.
//
// What was tried besides (clusters, one-row TMA boxes, other epilogues: slower): docs/decisions.md.
#pragma once
#include <utility>

#include "kernels/grouped_tile.cuh"

namespace conclave::kernels::grouped {

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
  CUtensorMap x, w, out, act;
};

CONCLAVE_DEVICE bool next_tile(Schedule& schedule, Tile& tile) {
  return schedule.next(tile, [](int rows) { return (rows + kRows - 1) / kRows; });
}

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
// buffer b of the warp; calls take the two in turn. Full rows go by TMA.
template <int kAt>
CONCLAVE_DEVICE void put(const Finished& tile, const Epilogue& e, int b, const CUtensorMap* map,
                         __nv_bfloat16* matrix, int ld, int column) {
  const int lane = e.lane, rows = column < ld ? tile.rows : 0;
  const uint32_t buffer = e.staging + b * 2048;
  wait_for_buffer(lane);
  stage_pairs<kAt>(tile.v, buffer, lane);
  buffer_filled();
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
//   kNarrow                      whether a tile's last 128 columns may be left out
//   kMajor                       how w lies: by_k [columns, depth], by_row [depth, columns]
//   first_row(p, n, half)        of w's 128 rows that make columns 128 · half … of n tile n (by_k)
//   finish<part>(tile, epilogue) part by part, in order

// The k block of w for a tile, or the first half of its columns; what lies past w's ends is filled
// with zeros.
template <class Form>
CONCLAVE_DEVICE void load_w(const Params& p, const Maps& maps, uint32_t to, uint32_t full, int k,
                            const Tile& tile, int halves) {
  for (int half = 0; half < halves; ++half) {
    const uint32_t here = to + half * kBytesW / 2;
    if constexpr (Form::kMajor == ptx::Major::by_k) {
      ptx::tma_load(here, &maps.w, full, k * kDepth, Form::first_row(p, tile.n, half), tile.expert);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        ptx::tma_load(here + i * kBlock, &maps.w, full, tile.n * kColumns + half * 128 + i * 64,
                      k * kDepth, tile.expert);
    }
  }
}

// Whether threads copy something beside TMA: all 128 arrive at each stage then, else one does.
template <class Form>
CONCLAVE_DEVICE bool with_copies(const Params& p) {
  return p.index || (Form::kBias && p.bias);
}

// The loading warpgroup; t its thread. Thread t copies 16-byte column t mod 8 of rows t / 8 + 16 i,
// to where the swizzle puts it.
template <class Form>
CONCLAVE_DEVICE void load(const Params& p, const Maps& maps, Shared shared, Schedule schedule,
                          int t) {
  const bool copies = with_copies<Form>(p);
  if (!copies && t > 0) return;
  const int k_blocks = p.depth / kDepth;
  const uint32_t to0 = t / 8 * 128 + ((t ^ (t / 8)) & 7) * 16;
  const char* from[8];
  int rows[8];
  Tile next;
  auto look_up = [&] {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      rows[i] = p.index[min(next.begin + next.m * kRows + t / 8 + 16 * i, next.end - 1)];
  };
  Pipe pipe;
  int tiles = 0;
  bool more = next_tile(schedule, next);
  if (more && p.index) look_up();
  while (more) {
    if (p.index) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        from[i] = p.x + static_cast<int64_t>(rows[i]) * p.depth * 2 + t % 8 * 16;
    }
    const Tile tile = next;
    const int halves = Form::kNarrow && is_narrow(tile, p.columns) ? 1 : 2;
    more = next_tile(schedule, next);
    if (more && p.index) look_up();
    for (int k = 0; k < k_blocks; ++k, pipe.step()) {
      const uint32_t full = shared.full(pipe.stage);
      ptx::mbarrier_wait(shared.empty(pipe.stage), pipe.phase ^ 1);
      if (t == 0) {
        ptx::mbarrier_expect(full, halves * kBytesW / 2 + (p.index ? 0 : kBytesX));
        load_w<Form>(p, maps, shared.w(pipe.stage), full, k, tile, halves);
        if (!p.index)
          ptx::tma_load(shared.x(pipe.stage), &maps.x, full, k * kDepth,
                        tile.begin + tile.m * kRows, 0);
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
      if (p.index) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          ptx::cp_async16(shared.x(pipe.stage) + to0 + i * 2048, from[i]);
          from[i] += kDepth * 2;
        }
      }
      if (copies) ptx::cp_async_arrive(full);
    }
    ++tiles;
  }
}

// A multiplying warpgroup, wg 0 or 1.
template <class Form>
CONCLAVE_DEVICE void multiply(const Params& p, const Maps& maps, Shared shared, Schedule schedule,
                              int wg, int thread) {
  const int lane = thread % 32, warp = thread / 32 % 4, k_blocks = p.depth / kDepth;
  const Epilogue epilogue{p, maps, shared.staging(thread / 32), lane};
  float d[128], bias0 = 1, bias8 = 1;  // bias…: what the bias is multiplied with
  Finished before;
  Pipe pipe;
  int in_flight = 0, tiles = 0;

  auto issue = [&]<int kWidth>(int k) {
    ptx::mbarrier_wait(shared.full(pipe.stage), pipe.phase);
    if (p.index) ptx::fence_async_proxy();  // between cp.async's writes and wgmma's reads
    constexpr auto kX = ptx::Major::by_k, kW = Form::kMajor;
    const uint64_t x = ptx::wgmma_descriptor<kX>(shared.x(pipe.stage) + wg * kBlock);
    const uint64_t w = ptx::wgmma_descriptor<kW>(shared.w(pipe.stage));
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i)
      ptx::wgmma<kWidth, kX, kW>(d, x + i * ptx::kNextDepth<kX>, w + i * ptx::kNextDepth<kW>,
                                 k | i);
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
  auto products = [&]<int kWidth>() {
    [&]<int... part>(std::integer_sequence<int, part...>) {
      ((issue.template operator()<kWidth>(part), Form::template finish<part>(before, epilogue),
        retire(part)),
       ...);
    }
    (Parts());
    for (int k = Form::kParts; k < k_blocks; ++k) issue.template operator()<kWidth>(k), retire(k);
    ptx::wgmma_wait<0>();
  };

  Tile tile;
  while (next_tile(schedule, tile)) {
    const int row = tile.begin + tile.m * kRows + wg * 64 + warp * 16;
    if (Form::kWeightedBias && p.bias) load_weights(p, row, tile.end - row, lane, bias0, bias8);
    if (Form::kNarrow && is_narrow(tile, p.columns))
      products.template operator()<kColumns / 2>();
    else
      products.template operator()<kColumns>();
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
    if (thread == 0) ptx::tma_prefetch(&maps.w);
    // Rows that do not fit are cut off: whoever counted them says so.
    prepare(shared, offsets, p.offsets, p.experts, p.rows, with_copies<Form>(p) ? 128 + 1 : 1);
    const Schedule schedule{offsets, p.experts, p.n_tiles, p.band, static_cast<int>(blockIdx.x)};
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
