// dw[e] += dyᵀ · x over an expert's rows, kernels/grouped_weight.h. Tiles, stages and warps:
// kernels/grouped_tile.cuh; a tile is 128 of dw's rows × 256 of its columns, 64 of the expert's
// rows a stage. Both operands lie with k outside, as they are in memory: the tensor cores take them
// so.
//
// TMA brings boxes of 64 rows × 64 columns. Below an expert's last full 64 rows the loading threads
// copy what is left by cp.async and zeros for the rest: there the next expert's rows follow.
//
// Sums are added by TMA in L2: no tile of dw comes to a multiprocessor. Into bf16 a tile's sums are
// rounded to 64 registers and stored beside the next tile's first k blocks; fp32 has no registers
// for that and stores them at the tile's end.
#include <utility>

#include "kernels/grouped_tile.cuh"
// One H100, 2026-11-25, Qwen3's rank shape (16 experts, 65,536 rows, 1536 × 2048 and 2048 × 768):
// added to bf16 703 and 665 TFLOP/s, to fp32 651 and 627, where at::_grouped_mm, which adds
// nothing, ran at 623 and 575 and a GEMM of 8192³ at 701 (bench/experts_bench.cpp).
#include "kernels/grouped_weight.h"
#include "kernels/hopper.h"
#include "kernels/launch.h"
#include "kernels/tensor_map.h"

namespace conclave::kernels::grouped {

struct WeightParams {
  const char *dy, *x;
  const int* offsets;
  int rows, out, in, experts;
  int m_tiles, n_tiles, band;
};

struct WeightMaps {
  CUtensorMap dy, x, dw;
};

constexpr int kArrivals = 4;  // the loading warps, each after its copies
constexpr int kParts = 4;     // of what is stored beside the next tile

// Few rows are filled up with zeros, so that there is a k block for each part.
CONCLAVE_DEVICE int k_blocks_of(const Tile& tile) {
  return max((tile.end - tile.begin + kDepth - 1) / kDepth, kParts);
}

CONCLAVE_DEVICE bool next_tile(Schedule& schedule, Tile& tile, const WeightParams& p) {
  return schedule.next(tile, [&](int rows) { return rows > 0 ? p.m_tiles : 0; });
}

// `rows` < 64 rows from `row` on, 64 · blocks columns from `column` on, to blocks as TMA makes
// them; zeros where there is nothing. By 128 threads, 16 bytes a copy.
template <int blocks>
CONCLAVE_DEVICE void copy_rows(uint32_t to, const char* matrix, int64_t row, int rows, int column,
                               int columns, int t) {
  constexpr int kChunks = 8 * blocks, kStep = 128 / kChunks;  // in a row; rows at a time
  const int chunk = t % kChunks, at = column + chunk * 8;
  const char* from = matrix + ((row + t / kChunks) * columns + at) * 2;
  to += chunk / 8 * kBlock;
#pragma unroll 4
  for (int r = t / kChunks; r < kDepth; r += kStep) {
    const bool there = r < rows && at < columns;
    ptx::cp_async16(to + r * 128 + (((chunk ^ r) & 7) << 4), there ? from : matrix, there);
    from += static_cast<int64_t>(kStep) * columns * 2;
  }
}

CONCLAVE_DEVICE void load(const WeightParams& p, const WeightMaps& maps, Shared shared,
                          Schedule schedule, int t) {
  Pipe pipe;
  Tile tile;
  while (next_tile(schedule, tile, p)) {
    const int m = tile.m * kRows, n = tile.n * kColumns;
    const int k_blocks = k_blocks_of(tile), x_blocks = is_narrow(tile, p.in) ? 2 : 4;
    for (int k = 0, row = tile.begin; k < k_blocks; ++k, row += kDepth, pipe.step()) {
      const uint32_t dy = shared.x(pipe.stage), x = shared.w(pipe.stage),
                     full = shared.full(pipe.stage);
      const int rows = tile.end - row;
      ptx::mbarrier_wait(shared.empty(pipe.stage), pipe.phase ^ 1);
      if (rows < kDepth) {
        copy_rows<kRows / 64>(dy, p.dy, row, rows, m, p.out, t);
        copy_rows<kColumns / 64>(x, p.x, row, rows, n, p.in, t);
        ptx::cp_async_wait();
        ptx::fence_async_proxy();
        __syncwarp();
      } else if (t == 0) {
        ptx::mbarrier_expect(full, kBytesX + x_blocks * kBlock);
#pragma unroll
        for (int i = 0; i < kRows / 64; ++i)
          ptx::tma_load(dy + i * kBlock, &maps.dy, full, m + i * 64, row, 0);
        for (int i = 0; i < x_blocks; ++i)
          ptx::tma_load(x + i * kBlock, &maps.x, full, n + i * 64, row, 0);
        continue;
      }
      if (t % 32 == 0) ptx::mbarrier_arrive(full);
    }
  }
}

// A finished tile of a multiplying warp, its 16 rows: where they belong and, into bf16, what has
// not been stored yet, as stage_pairs() takes it.
struct Sums {
  uint32_t v[64] = {};
  int expert = 0, row = -1, column = 0;  // the warp's first; row -1: there is nothing
};

// Stores by staging buffer b of the warp, the two in turn.
struct Adder {
  const WeightMaps& maps;
  uint32_t staging;
  int lane;

  CONCLAVE_DEVICE uint32_t buffer(int b) const { return staging + b * 2048; }

  CONCLAVE_DEVICE void start(const Sums& s, int b, int column) const {
    buffer_filled();
    if (lane != 0) return;
    if (s.row >= 0) ptx::tma_add(&maps.dw, buffer(b), s.column + column, s.row, s.expert);
    ptx::tma_store_commit();
  }

  // 64 columns of bf16.
  template <int part>
  CONCLAVE_DEVICE void add_pairs(const Sums& s) const {
    wait_for_buffer(lane);
    stage_pairs<16 * part>(s.v, buffer(part & 1), lane);
    start(s, part & 1, part * 64);
  }

  // 32 columns of fp32, the part's 16 of wgmma's registers.
  CONCLAVE_DEVICE void add_sums(const Sums& s, const float (&d)[128], int part) const {
    wait_for_buffer(lane);
    const uint32_t row = buffer(part & 1) + lane / 4 * 128;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* v = d + 16 * part + 4 * j;
      const uint32_t at = (((2 * j + lane % 4 / 2) ^ (lane / 4)) << 4) + lane % 2 * 8;
      ptx::store_shared8(row + at, v[0], v[1]);
      ptx::store_shared8(row + 8 * 128 + at, v[2], v[3]);
    }
    start(s, part & 1, part * 32);
  }
};

template <bool fp32>
CONCLAVE_DEVICE void multiply(const WeightParams& p, const WeightMaps& maps, Shared shared,
                              Schedule schedule, int wg, int thread) {
  constexpr auto kMajor = ptx::Major::by_row;
  const int lane = thread % 32, warp = thread / 32 % 4;
  const Adder adder{maps, shared.staging(thread / 32), lane};
  float d[128];
  Sums before;
  Pipe pipe;
  int in_flight = 0;

  auto issue = [&]<int kWidth>(int k) {
    ptx::mbarrier_wait(shared.full(pipe.stage), pipe.phase);
    const uint64_t dy = ptx::wgmma_descriptor<kMajor>(shared.x(pipe.stage) + wg * kBlock);
    const uint64_t x = ptx::wgmma_descriptor<kMajor>(shared.w(pipe.stage));
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i)
      ptx::wgmma<kWidth, kMajor, kMajor>(d, dy + i * ptx::kNextDepth<kMajor>,
                                         x + i * ptx::kNextDepth<kMajor>, k | i);
    ptx::wgmma_commit();
  };
  auto release = [&](int stage) {
    if (lane == 0) ptx::mbarrier_arrive(shared.empty(stage));
  };
  auto retire = [&](int k) {
    ptx::wgmma_wait<1>();
    if (k) release(in_flight);
    in_flight = pipe.stage;
    pipe.step();
  };
  using Parts = std::make_integer_sequence<int, kParts>;
  auto products = [&]<int kWidth>(int k_blocks) {
    int k = 0;
    if constexpr (!fp32) {
      [&]<int... part>(std::integer_sequence<int, part...>) {
        ((issue.template operator()<kWidth>(part), adder.add_pairs<part>(before), retire(part)),
         ...);
      }
      (Parts());
      k = kParts;
    }
    for (; k < k_blocks; ++k) issue.template operator()<kWidth>(k), retire(k);
    ptx::wgmma_wait<0>();
  };

  Tile tile;
  while (next_tile(schedule, tile, p)) {
    if (is_narrow(tile, p.in))
      products.template operator()<kColumns / 2>(k_blocks_of(tile));
    else
      products.template operator()<kColumns>(k_blocks_of(tile));
    release(in_flight);
    before.expert = tile.expert;
    before.row = tile.m * kRows + wg * 64 + warp * 16;
    before.column = tile.n * kColumns;
    if constexpr (fp32) {
#pragma unroll
      for (int i = 0; i < 8; ++i) adder.add_sums(before, d, i);
    } else {
#pragma unroll
      for (int i = 0; i < 64; ++i) before.v[i] = ptx::pack(d[2 * i], d[2 * i + 1]);
    }
  }
  if constexpr (!fp32) [&]<int... part>(std::integer_sequence<int, part...>) {
      (adder.add_pairs<part>(before), ...);
    }
  (Parts());
  if (lane == 0) ptx::tma_store_wait();
}

template <bool fp32>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_weight_kernel(const __grid_constant__ WeightMaps maps,
                          const __grid_constant__ WeightParams p) {
  if constexpr (kHopper) {
    extern __shared__ __align__(1024) uint8_t bytes[];
    const Shared shared{ptx::smem(bytes)};
    int* offsets = reinterpret_cast<int*>(bytes + kOffsetsAt);
    const int thread = threadIdx.x, wg = thread / 128;
    prepare(shared, offsets, p.offsets, p.experts, p.rows, kArrivals);
    const Schedule schedule{offsets, p.experts, p.n_tiles, p.band, static_cast<int>(blockIdx.x)};
    if (wg == 2) {
      ptx::fewer_registers<40>();
      load(p, maps, shared, schedule, thread - 256);
    } else {
      ptx::more_registers<232>();
      multiply<fp32>(p, maps, shared, schedule, wg, thread);
    }
  }
}

}  // namespace conclave::kernels::grouped

namespace conclave::kernels {
namespace {

const void* kernel_for(bool fp32) {
  return fp32 ? reinterpret_cast<const void*>(grouped::grouped_weight_kernel<true>)
              : reinterpret_cast<const void*>(grouped::grouped_weight_kernel<false>);
}

}  // namespace

bool grouped_weight_supported(const GroupedWeight& p) {
  auto aligned = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
  return has_hopper_code(kernel_for(p.fp32)) && p.out > 0 && p.in > 0 && p.out % 8 == 0 &&
         p.in % 8 == 0 && p.experts >= 1 && p.experts <= grouped::kMaxExperts &&
         p.rows < (1ll << 31) && p.out < (1 << 30) && p.in < (1 << 30) && aligned(p.dy) &&
         aligned(p.x) && aligned(p.dw);
}

void grouped_weight(const GroupedWeight& p, cudaStream_t stream, int sms) {
  grouped::WeightMaps maps{};
  tensor_map(&maps.dy, p.dy, {p.out, p.rows, 1}, {64, grouped::kDepth, 1});
  tensor_map(&maps.x, p.x, {p.in, p.rows, 1}, {64, grouped::kDepth, 1});
  tensor_map(&maps.dw, p.dw, {p.in, p.out, p.experts}, {p.fp32 ? 32 : 64, 16, 1},
             p.fp32 ? MapOf::fp32 : MapOf::bf16);
  const int m_tiles = static_cast<int>((p.out + grouped::kRows - 1) / grouped::kRows),
            n_tiles = static_cast<int>((p.in + grouped::kColumns - 1) / grouped::kColumns);
  grouped::WeightParams params{static_cast<const char*>(p.dy),
                               static_cast<const char*>(p.x),
                               p.offsets,
                               static_cast<int>(p.rows),
                               static_cast<int>(p.out),
                               static_cast<int>(p.in),
                               p.experts,
                               m_tiles,
                               n_tiles,
                               n_tiles < grouped::kBand ? n_tiles : grouped::kBand};
  const int all = multiprocessors(), blocks = sms > 0 && sms < all ? sms : all;
  const void* kernel = kernel_for(p.fp32);
  allow_shared_memory(kernel, grouped::kSharedBytes);
  void* arguments[] = {&maps, &params};
  cudaLaunchKernel(kernel, dim3(blocks), dim3(grouped::kThreads), arguments, grouped::kSharedBytes,
                   stream);
  check_launch("grouped_weight");
}

}  // namespace conclave::kernels
