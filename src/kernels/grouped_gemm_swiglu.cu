// One persistent kernel, a block a multiprocessor, 384 threads: warpgroup 2 loads (40 registers),
// warpgroups 0 and 1 multiply, 64 rows × 256 columns each (232 registers). 4 stages of x 128 × 64
// and w 256 × 64, bf16, rows of 128 bytes in the 128-byte swizzle.
// - w comes by TMA; form `halves` takes 128 gate rows and 128 up rows, so one thread owns matching
// gate and up columns;
//   `interleaved` takes 256 rows as they stand, where they are neighbours in a register.
// - x is gathered by cp.async, 16 bytes a thread, rows past an expert's end repeat its last one and
// are not stored; the indices
//   of the next tile are loaded one tile ahead.
// - The epilogue of a tile runs beside the first kParts k blocks of the next one: sums are rounded
// to 64 registers of bf16
//   pairs, and each k block does one part: a store of 16 rows × 64 columns a warp (stmatrix, TMA)
//   or a quarter of the activations. Only warps on an expert's last rows store by hand, masked.
// One H200, 2026-11-23, the form this was written from: 671 TFLOP/s on Qwen3's rank shape (hidden
// 2048, ffn 768, 16 experts, 65,536 rows), 1.40 × gather + at::_grouped_mm + compiled SwiGLU; 1.22
// × at GPT-OSS's, 1.16 × at DeepSeek-V3's. What was tried besides (clusters, one-row TMA boxes,
// other epilogues: slower): docs/decisions.md.
#include <atomic>

#include "kernels/grouped_gemm_swiglu.h"
#include "kernels/launch.h"
#include "kernels/ptx.cuh"
#include "kernels/tensor_map.h"

// Named, so that nvcc does not call what only Hopper uses unused when it compiles for others.
namespace conclave::kernels::swiglu_gemm {

constexpr int kRows = 128, kColumns = 256, kDepth = 64, kStages = 4, kThreads = 384;
constexpr int kParts =
    10;                   // of an epilogue, one beside each of the first k blocks of the next tile
constexpr int kBand = 8;  // n tiles that are walked before the next rows: their w stays in L2
constexpr int kMaxExperts = 448;

constexpr int kBytesX = kRows * kDepth * 2, kBytesW = kColumns * kDepth * 2;
constexpr int kStage = kBytesX + kBytesW;
constexpr int kStagingAt = kStages * kStage;        // two buffers of 2 KB a multiplying warp
constexpr int kBarriersAt = kStagingAt + 8 * 4096;  // full, empty
constexpr int kOffsetsAt = kBarriersAt + 16 * kStages;
constexpr int kBiasAt = 231424;  // two buffers of a tile's 256
constexpr int kSharedBytes = kBiasAt + 2 * kColumns * 2;
static_assert(kOffsetsAt + 4 * (kMaxExperts + 1) <= kBiasAt);
static_assert(kSharedBytes <= 227 * 1024);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;  // an empty kernel, which grouped_swiglu_supported never lets run
#endif

struct Params {
  const char* x;  // bytes: rows are hidden · 2 apart
  const int *index, *offsets;
  const float* weights;
  const __nv_bfloat16* bias;
  __nv_bfloat16 *gate_up, *act;
  int rows, hidden, ffn, experts, n_tiles, band;
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
  CONCLAVE_DEVICE uint32_t bias(int buffer) const { return base + kBiasAt + buffer * kColumns * 2; }
};

// The loading warpgroup; t its thread. Thread t copies 16-byte column t mod 8 of rows t / 8 + 16 i,
// to where the swizzle puts it.
template <GatedForm kForm>
CONCLAVE_DEVICE void load(const Params& p, const CUtensorMap& w_map, Shared shared,
                          Schedule schedule, int t) {
  const int k_blocks = p.hidden / kDepth;
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
      from[i] = p.x + static_cast<int64_t>(rows[i]) * p.hidden * 2 + t % 8 * 16;
    const Tile tile = next;
    more = schedule.next(next, p);
    if (more) look_up();
    for (int k = 0; k < k_blocks; ++k, pipe.step()) {
      ptx::mbarrier_wait(shared.empty(pipe.stage), pipe.phase ^ 1);
      if (t == 0) {
        ptx::mbarrier_expect(shared.full(pipe.stage), kBytesW);
#pragma unroll
        for (int h = 0; h < 2; ++h)  // what lies past w's rows is filled with zeros
          ptx::tma_load(
              shared.w(pipe.stage) + h * kBytesW / 2, &w_map, shared.full(pipe.stage), k * kDepth,
              kForm == GatedForm::halves ? h * p.ffn + tile.n * 128 : tile.n * 256 + h * 128,
              tile.expert);
      }
      // The buffer of two tiles ago: its readers have released a stage of the tile between since.
      if (kForm == GatedForm::interleaved && p.bias && k == 0) {
        const int column = tile.n * kColumns + 2 * t;
        const bool there = column < 2 * p.ffn;
        const int64_t at = static_cast<int64_t>(tile.expert) * 2 * p.ffn + column;
        ptx::cp_async4(shared.bias(tiles & 1) + 4 * t, p.bias + (there ? at : 0), there ? 4 : 0);
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

// gate · σ(slope · gate) of two gates, times `scale`: one reciprocal for both; the clamp keeps
// their product finite.
CONCLAVE_DEVICE void gated(float g0, float g1, float slope, float scale0, float scale1, float& y0,
                           float& y1) {
  const float to_base2 = slope * -1.442695041f;
  const float a = 1.f + ptx::exp2(fminf(g0 * to_base2, 60.f));
  const float b = 1.f + ptx::exp2(fminf(g1 * to_base2, 60.f));
  const float r = ptx::reciprocal(a * b);
  y0 = g0 * (r * b) * scale0;
  y1 = g1 * (r * a) * scale1;
}

// min and max that let NaN pass, as ops/swiglu does.
CONCLAVE_DEVICE float at_most(float x, float limit) { return x > limit ? limit : x; }
CONCLAVE_DEVICE float at_least(float x, float limit) { return x < limit ? limit : x; }

// A finished tile of a multiplying warp: its 16 rows as pairs of bf16, and where they belong. With
// `halves` v[0 … 32) are gate columns and v[32 … 64) the up columns beside them.
struct Finished {
  uint32_t v[64] = {};
  float weight0 = 0, weight8 = 0;  // of rows lane / 4 and 8 below
  int row = 0, rows = 0,
      n = 0;  // the first row, how many there are (less than 1: none), the n tile
};

// v[at … at + 16), 16 rows × 64 columns, to `column` of a matrix with `ld` columns, by staging
// buffer b of the warp. Full rows go by TMA. Every call commits a group, stored or not, so that all
// but the newest group being read frees this buffer.
template <int kAt>
CONCLAVE_DEVICE void put(const Finished& tile, uint32_t staging, int b, const CUtensorMap* map,
                         __nv_bfloat16* matrix, int ld, int column, int lane) {
  const uint32_t buffer = staging + b * 2048;
  const int rows = column < ld ? tile.rows : 0;
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

// Part kPart of a finished tile's epilogue.
template <GatedForm kForm, int kPart>
CONCLAVE_DEVICE void finish(Finished& tile, const Params& p, const CUtensorMap& gate_up_map,
                            const CUtensorMap& act_map, uint32_t staging, int lane) {
  if constexpr (kPart == 0) {
    auto weight = [&](int r) {
      return r >= tile.rows ? 0.f : p.weights ? p.weights[tile.row + r] : 1.f;
    };
    tile.weight0 = weight(lane / 4), tile.weight8 = weight(lane / 4 + 8);
  }
  if constexpr (kForm == GatedForm::halves) {
    constexpr int c = kPart / 5, q = kPart % 5, kGate = 16 * c, kUp = 32 + 16 * c;
    const int column = tile.n * 128 + c * 64;
    if constexpr (q == 0 || q == 1) {
      // Past the gate columns nothing may be stored: there the up columns begin.
      const int to = column < p.ffn ? q * p.ffn + column : 2 * p.ffn;
      put<q == 0 ? kGate : kUp>(tile, staging, q == 0 ? c : 1 - c, &gate_up_map, p.gate_up,
                                2 * p.ffn, to, lane);
    }
    if constexpr (q == 2 || q == 3) {
#pragma unroll
      for (int i = 8 * (q - 2); i < 8 * (q - 1); ++i) {
        const float weight = i & 1 ? tile.weight8 : tile.weight0;
        float y0, y1;
        gated(ptx::low(tile.v[kGate + i]), ptx::high(tile.v[kGate + i]), 1.f, weight, weight, y0,
              y1);
        tile.v[kGate + i] =
            ptx::pack(y0 * ptx::low(tile.v[kUp + i]), y1 * ptx::high(tile.v[kUp + i]));
      }
    }
    if constexpr (q == 4) put<kGate>(tile, staging, c, &act_map, p.act, p.ffn, column, lane);
  } else {
    if constexpr (kPart < 4)
      put<16 * kPart>(tile, staging, kPart & 1, &gate_up_map, p.gate_up, 2 * p.ffn,
                      tile.n * 256 + kPart * 64, lane);
    // A lane holds gate and up of one activation in a register, of column lane mod 4 of every four;
    // stores want two neighbours: lanes 2 i and 2 i + 1 of the quad have them, in the low or the
    // high half.
    constexpr int c = (kPart - 4) / 3, q = (kPart - 4) % 3;
    if constexpr (kPart >= 4 && q < 2) {
#pragma unroll
      for (int g = 4 * q; g < 4 * q + 4; ++g)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t a = tile.v[32 * c + 4 * g + half], b = tile.v[32 * c + 4 * g + 2 + half];
          const float weight = half ? tile.weight8 : tile.weight0;
          auto up = [](uint32_t pair) {
            return at_least(at_most(ptx::high(pair), 7.f), -7.f) + 1.f;
          };
          float y0, y1;
          gated(at_most(ptx::low(a), 7.f), at_most(ptx::low(b), 7.f), 1.702f, up(a) * weight,
                up(b) * weight, y0, y1);
          const uint32_t y = ptx::pack(y0, y1);
          const int source = (lane & ~3) + (lane & 1) * 2;
          const uint32_t first = __shfl_sync(0xFFFFFFFFu, y, source),
                         second = __shfl_sync(0xFFFFFFFFu, y, source + 1);
          tile.v[32 * c + 2 * g + half] = __byte_perm(first, second, lane & 2 ? 0x7632 : 0x5410);
        }
    }
    if constexpr (kPart >= 4 && q == 2)
      put<32 * c>(tile, staging, c & 1, &act_map, p.act, p.ffn, tile.n * 128 + c * 64, lane);
  }
}

// A multiplying warpgroup, wg 0 or 1.
template <GatedForm kForm>
CONCLAVE_DEVICE void multiply(const Params& p, const CUtensorMap& gate_up_map,
                              const CUtensorMap& act_map, Shared shared, Schedule schedule, int wg,
                              int thread) {
  const int lane = thread % 32, warp = thread / 32 % 4, k_blocks = p.hidden / kDepth;
  const uint32_t staging = shared.base + kStagingAt + thread / 32 * 4096;
  float d[128];
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
#define CONCLAVE_FINISH(i) finish<kForm, i>(before, p, gate_up_map, act_map, staging, lane)
#define CONCLAVE_STEP(i) issue(i), CONCLAVE_FINISH(i), retire(i)

  Tile tile;
  while (schedule.next(tile, p)) {
    CONCLAVE_STEP(0), CONCLAVE_STEP(1), CONCLAVE_STEP(2), CONCLAVE_STEP(3), CONCLAVE_STEP(4);
    CONCLAVE_STEP(5), CONCLAVE_STEP(6), CONCLAVE_STEP(7), CONCLAVE_STEP(8), CONCLAVE_STEP(9);
    for (int k = kParts; k < k_blocks; ++k) issue(k), retire(k);
    ptx::wgmma_wait<0>();
    if (kForm == GatedForm::interleaved && p.bias) {
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        const uint32_t b = ptx::load_shared4(shared.bias(tiles & 1) + 16 * j + lane % 4 * 4);
        before.v[2 * j] = ptx::pack(d[4 * j] + ptx::low(b), d[4 * j + 1] + ptx::high(b));
        before.v[2 * j + 1] = ptx::pack(d[4 * j + 2] + ptx::low(b), d[4 * j + 3] + ptx::high(b));
      }
      __syncwarp();  // all lanes have read the bias when lane 0 releases the next stage
    } else {
#pragma unroll
      for (int i = 0; i < 64; ++i) before.v[i] = ptx::pack(d[2 * i], d[2 * i + 1]);
    }
    release(in_flight);
    before.row = tile.row + wg * 64 + warp * 16;
    before.rows = tile.end - before.row;
    before.n = tile.n;
    ++tiles;
  }
  CONCLAVE_FINISH(0), CONCLAVE_FINISH(1), CONCLAVE_FINISH(2), CONCLAVE_FINISH(3),
      CONCLAVE_FINISH(4);
  CONCLAVE_FINISH(5), CONCLAVE_FINISH(6), CONCLAVE_FINISH(7), CONCLAVE_FINISH(8),
      CONCLAVE_FINISH(9);
  if (lane == 0) ptx::tma_store_wait();
#undef CONCLAVE_STEP
#undef CONCLAVE_FINISH
}

template <GatedForm kForm>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_swiglu_kernel(const __grid_constant__ CUtensorMap w_map,
                          const __grid_constant__ CUtensorMap gate_up_map,
                          const __grid_constant__ CUtensorMap act_map,
                          const __grid_constant__ Params p) {
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
      ptx::tma_prefetch(&w_map);
    }
    __syncthreads();
    const Schedule schedule{offsets, static_cast<int>(blockIdx.x)};
    if (wg == 2) {
      ptx::fewer_registers<40>();
      load<kForm>(p, w_map, shared, schedule, thread - 256);
    } else {
      ptx::more_registers<232>();
      multiply<kForm>(p, gate_up_map, act_map, shared, schedule, wg, thread);
    }
  }
}

}  // namespace conclave::kernels::swiglu_gemm

namespace conclave::kernels {
namespace {
using namespace swiglu_gemm;

template <GatedForm kForm>
void launch(const CUtensorMap (&maps)[3], const Params& p, int blocks, int device,
            cudaStream_t stream) {
  // The attribute belongs to the function on one device.
  static std::atomic<bool> ready[64];
  if (device >= 64 || !ready[device]) {
    cudaFuncSetAttribute(grouped_swiglu_kernel<kForm>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         kSharedBytes);
    check_launch("grouped_swiglu: shared memory");
    if (device < 64) ready[device] = true;
  }
  grouped_swiglu_kernel<kForm>
      <<<blocks, kThreads, kSharedBytes, stream>>>(maps[0], maps[1], maps[2], p);
  check_launch("grouped_swiglu");
}

// Whether what runs on the device is the code for sm_90a, not what the driver makes of other PTX.
bool on_hopper(int device) {
  static std::atomic<int> known[64];  // 0: not yet, 1: yes, 2: no
  int answer = device < 64 ? known[device].load() : 0;
  if (answer == 0) {
    int major = 0, minor = 0;
    cudaFuncAttributes code{};
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    const bool found =
        major == 9 && minor == 0 &&
        cudaFuncGetAttributes(&code, grouped_swiglu_kernel<GatedForm::halves>) == cudaSuccess;
    answer = found && code.ptxVersion >= 90 ? 1 : 2;
    if (device < 64) known[device] = answer;
  }
  return answer == 1;
}

}  // namespace

bool grouped_swiglu_supported(const GroupedSwiglu& p) {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || !on_hopper(device)) return false;
  auto aligned = [](const void* at, int to) { return reinterpret_cast<uintptr_t>(at) % to == 0; };
  return p.hidden % kDepth == 0 && p.hidden >= kParts * kDepth && p.ffn % 64 == 0 && p.ffn > 0 &&
         p.experts >= 1 && p.experts <= kMaxExperts && p.rows < (1ll << 31) &&
         p.hidden < (1 << 30) && p.ffn < (1 << 28) && aligned(p.x, 16) && aligned(p.w, 16) &&
         aligned(p.gate_up, 16) && aligned(p.act, 16) && aligned(p.bias, 4);
}

void grouped_swiglu(const GroupedSwiglu& p, GatedForm form, cudaStream_t stream, int sms) {
  CUtensorMap maps[3];
  tensor_map(&maps[0], p.w, {p.hidden, 2 * p.ffn, p.experts}, {kDepth, 128, 1});
  tensor_map(&maps[1], p.gate_up, {2 * p.ffn, p.rows}, {64, 16});
  tensor_map(&maps[2], p.act, {p.ffn, p.rows}, {64, 16});
  int device = 0, all = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&all, cudaDevAttrMultiProcessorCount, device);
  const int blocks = sms > 0 && sms < all ? sms : all;
  const int n_tiles = static_cast<int>((p.ffn + 127) / 128);
  const Params params{static_cast<const char*>(p.x),
                      p.index,
                      p.offsets,
                      p.weights,
                      static_cast<const __nv_bfloat16*>(p.bias),
                      static_cast<__nv_bfloat16*>(p.gate_up),
                      static_cast<__nv_bfloat16*>(p.act),
                      static_cast<int>(p.rows),
                      static_cast<int>(p.hidden),
                      static_cast<int>(p.ffn),
                      p.experts,
                      n_tiles,
                      n_tiles < kBand ? n_tiles : kBand};
  if (form == GatedForm::halves)
    launch<GatedForm::halves>(maps, params, blocks, device, stream);
  else
    launch<GatedForm::interleaved>(maps, params, blocks, device, stream);
}

}  // namespace conclave::kernels
