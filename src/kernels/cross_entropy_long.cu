// A cluster of 2 or 4 multiprocessors takes every so many rows, a block of 1,024 threads on each a
// part of the row, which fits its shared memory: 2 hold 229,376 logits. A thread has fixed packs of
// the part. As soon as the gradient of a pack is written, the pack of the next row is copied to
// where it was (cp.async, waited for by the thread that asked for it) and, kLag packs later, goes
// into that row's sum: reads, writes and both passes' arithmetic run beside each other, and a row
// costs one barrier, at which the blocks tell each other their maxima and sums.
//
// One H100, 2026-11-25, 2,048 rows beside a copy of as many bytes (bench/kernels_bench.cpp): 0.90
// of its rate at 151,936, 0.92 at 201,088, 0.87 at 129,280. Before: a block a row, 0.74 of a copy
// at 151,936 on an H100 (a multiprocessor had nothing in flight between its rows' two passes); rows
// kept whole in shared memory and registers, 0.43 (the loops over registers had to be unrolled, to
// 258 KB of code, which no instruction cache holds).
#include <cuda_pipeline_primitives.h>

#include <algorithm>

#include "kernels/cross_entropy_long.h"
#include "kernels/hopper.h"
#include "kernels/online_softmax.cuh"

// Named, so that nvcc does not call what only Hopper uses unused when it compiles for others.
namespace conclave::kernels::long_rows {

constexpr int kThreads = 1024, N = 8, kMostSlots = 14, kMostBlocks = 4;
// Shorter rows do better with several blocks a multiprocessor.
constexpr int64_t kShortest = 65536;
constexpr int kSlotBytes = kThreads * N * static_cast<int>(sizeof(bf16));

struct Parts {  // of a row: the maxima and sums of all warps of the cluster
  float most[kMostBlocks * kThreads / 32], sum[kMostBlocks * kThreads / 32];
};

// e^x as 2^(x · log2 e): one operation less where the shift is in the same units.
constexpr float kLog2E = 1.44269504f;
CONCLAVE_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

CONCLAVE_DEVICE void add_pack_base2(Online<bf16>& online, const Pack<bf16, N>& pack) {
  float x[N], largest = wide(pack.at[0]);
#pragma unroll
  for (int n = 0; n < N; ++n) {
    x[n] = wide(pack.at[n]);
    largest = x[n] > largest ? x[n] : largest;
  }
  if (largest > online.most) {
    online.sum *= exp2_approximate((online.most - largest) * kLog2E);
    online.most = largest;
  }
  const float shift = online.most == -INFINITY ? 0.f : online.most * kLog2E;
#pragma unroll
  for (int n = 0; n < N; ++n) online.sum += exp2_approximate(fmaf(x[n], kLog2E, -shift));
}

// Clusters: Hopper's. Elsewhere the kernel is empty, and nobody launches it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kClusters = true;
CONCLAVE_DEVICE uint32_t rank_in_cluster() {
  uint32_t r;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
CONCLAVE_DEVICE void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
// *to = v in the shared memory of block `rank` of the cluster.
CONCLAVE_DEVICE void store_in(uint32_t rank, float* to, float v) {
  uint32_t at;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(at)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}
#else
constexpr bool kClusters = false;
CONCLAVE_DEVICE uint32_t rank_in_cluster() { return 0; }
CONCLAVE_DEVICE void cluster_barrier() {}
CONCLAVE_DEVICE void store_in(uint32_t, float*, float) {}
#endif

// The row's sum from the threads' in all blocks, the same in each; in fixed order.
CONCLAVE_DEVICE Online<bf16> online_of_cluster(Online<bf16> mine, Parts& parts, int blocks) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other_most = __shfl_down_sync(0xffffffffu, mine.most, step),
                other_sum = __shfl_down_sync(0xffffffffu, mine.sum, step);
    mine.add(other_most, other_sum);
  }
  mine.most = __shfl_sync(0xffffffffu, mine.most, 0);
  mine.sum = __shfl_sync(0xffffffffu, mine.sum, 0);
  const int lane = threadIdx.x % 32, place = rank_in_cluster() * (kThreads / 32) + threadIdx.x / 32;
  if (lane < blocks) {
    store_in(lane, &parts.most[place], mine.most);
    store_in(lane, &parts.sum[place], mine.sum);
  }
  __syncwarp();
  cluster_barrier();
  // A lane a warp of each block, then the lanes.
  Online<bf16> all;
  for (int block = 0; block < blocks; ++block)
    all.add(parts.most[block * 32 + lane], parts.sum[block * 32 + lane]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other_most = __shfl_down_sync(0xffffffffu, all.most, step),
                other_sum = __shfl_down_sync(0xffffffffu, all.sum, step);
    all.add(other_most, other_sum);
  }
  all.most = __shfl_sync(0xffffffffu, all.most, 0);
  all.sum = __shfl_sync(0xffffffffu, all.sum, 0);
  return all;
}
static_assert(kThreads == 32 * 32);

// This block's part of the rows, in shared memory. Every slot has a group of copies, also an empty
// one.
template <int kLag>
struct RowPart {
  uint4* memory;  // [slots, kThreads]
  int begin, end, slots;

  CONCLAVE_DEVICE int place(int slot) const {  // where this thread's pack lies in the row
    return begin + (slot * kThreads + static_cast<int>(threadIdx.x)) * N;
  }
  CONCLAVE_DEVICE bf16* at(int slot) const {
    return reinterpret_cast<bf16*>(memory + slot * kThreads + threadIdx.x);
  }
  CONCLAVE_DEVICE void ask_for(const bf16* row, int slot) const {
    if (row && place(slot) < end) __pipeline_memcpy_async(at(slot), row + place(slot), 16);
    __pipeline_commit();
  }
  // For slots in order, kLag after they were asked for.
  CONCLAVE_DEVICE void add_to(Online<bf16>& online, const bf16* row, int slot) const {
    if (row && place(slot) < end) add_pack_base2(online, load<N>(at(slot)));
  }

  // Replaces the row by f(pack, its place) pack by pack, and gives the sum of the next row; of null
  // nothing is read or written.
  template <class F>
  CONCLAVE_DEVICE Online<bf16> go_on(bf16* row, const bf16* next, const F& f) const {
    Online<bf16> online;
#pragma unroll 2
    for (int s = 0; s < slots; ++s) {
      if (row && place(s) < end) store(row + place(s), f(load<N>(at(s)), place(s)));
      ask_for(next, s);
      __pipeline_wait_prior(kLag);
      if (s >= kLag) add_to(online, next, s - kLag);
    }
    __pipeline_wait_prior(0);
    for (int s = max(slots - kLag, 0); s < slots; ++s) add_to(online, next, s);
    return online;
  }
};

// A template, as DEVICE_CHECK wants it.
template <int kLag>
__global__ void __launch_bounds__(kThreads, 1)
    kernel(double* losses, bf16* logits, const int64_t* labels, float seed, int slots, int blocks,
           const CrossEntropySizes s) {
  if constexpr (kClusters) {
    extern __shared__ uint4 memory[];
    __shared__ Parts parts[2];
    const int vocab = static_cast<int>(s.vocab), width = slots * kThreads * N,
              begin = static_cast<int>(rank_in_cluster()) * width;
    const RowPart<kLag> part{memory, begin, min(begin + width, vocab), slots};
    const int64_t clusters = gridDim.x / blocks;
    // Null where the row is not scored or there is none.
    auto scored = [&](int64_t row) {
      return row < s.tokens && labels[row] != s.ignore ? logits + row * s.vocab : nullptr;
    };
    int64_t row = blockIdx.x / blocks;
    bf16* at = scored(row);
    Online<bf16> online =
        part.go_on(nullptr, at, [](const Pack<bf16, N>& pack, int) { return pack; });
    int turn = 0;
    for (; row < s.tokens; row += clusters) {
      bf16* const next = scored(row + clusters);
      if (at) {
        const int64_t label = labels[row];
        DEVICE_CHECK(label >= 0 && label < s.vocab,
                     "cross_entropy: a label is outside of the vocabulary");
        const float target = wide(at[label]);  // before any block overwrites it: a barrier follows
        online = online_of_cluster(online, parts[turn], blocks);
        turn ^= 1;  // who is slow still reads these: a barrier stands before they are written again
        if (threadIdx.x == 0 && begin == 0)
          losses[row] = log(static_cast<double>(online.sum)) +
                        (static_cast<double>(online.most) - static_cast<double>(target));
        const float shift = online.most * kLog2E, scale = seed / online.sum, sum = online.sum;
        const int own = static_cast<int>(label);
        online = part.go_on(at, next, [&](const Pack<bf16, N>& pack, int first) {
          float p[N], out[N];
#pragma unroll
          for (int n = 0; n < N; ++n) {
            p[n] = exp2_approximate(fmaf(wide(pack.at[n]), kLog2E, -shift));
            out[n] = p[n] * scale;
          }
          // p − 1 before the product with the seed: near p = 1 the difference is what counts.
          if (own >= first && own < first + N)
#pragma unroll
            for (int n = 0; n < N; ++n)
              if (own == first + n) out[n] = (p[n] / sum - 1.f) * seed;
          return narrow<bf16>(out);
        });
      } else {
        if (threadIdx.x == 0 && begin == 0) losses[row] = 0;
        online = part.go_on(logits + row * s.vocab, next,
                            [](const Pack<bf16, N>&, int) { return Pack<bf16, N>{}; });
      }
      at = next;
    }
  }
}

}  // namespace conclave::kernels::long_rows

namespace conclave::kernels {

bool cross_entropy_long(double* losses, bf16* logits, const int64_t* labels, double seed,
                        const CrossEntropySizes& s, cudaStream_t stream) {
  using namespace long_rows;
  if (s.vocab < kShortest || s.vocab % N != 0 || !aligned16(0, logits) ||
      s.vocab > int64_t{kMostBlocks} * kMostSlots * kThreads * N)
    return false;
  const void* const code = reinterpret_cast<const void*>(kernel</*kLag=*/4>);
  if (!has_hopper_code(code)) return false;
  int blocks = s.vocab <= int64_t{2} * kMostSlots * kThreads * N ? 2 : 4;
  int slots = static_cast<int>(blocks_of(s.vocab, int64_t{blocks} * kThreads * N));
  allow_shared_memory(code, kMostSlots * kSlotBytes);

  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(std::min<int64_t>(s.tokens, multiprocessors() / blocks) * blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(slots * kSlotBytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  CrossEntropySizes sizes = s;
  auto narrow_seed = static_cast<float>(seed);
  void* arguments[] = {&losses, &logits, &labels, &narrow_seed, &slots, &blocks, &sizes};
  cudaLaunchKernelExC(&config, code, arguments);
  check_launch("cross_entropy");
  return true;
}

}  // namespace conclave::kernels
