// How RMSNorm's kernels cut rows. A row belongs to kLanes threads, 16 or 32 of one warp or 128 or
// 256 of a block, each with kPacks packs of it in registers, so a row is read once: all loads,
// those of the weight too, are in flight before the first sum. Few packs a thread and many threads
// a row do better than the other way round (a warp with 8 packs a lane reached 73 % of a copy at
// 2,048 bf16 on an H100). Rows that no such cut fits (odd lengths, fp64, over 8,192 bf16) belong to
// a block of kRowThreads, which reads them twice.
#pragma once
#include "kernels/pack.cuh"

namespace conclave::kernels {

constexpr int kRowThreads = 256;

// Σ over the kLanes threads of a row, the same value in each. All threads of the block call it;
// parts [threads / 32] may be used again at once, by who uses two of them in turn.
template <int kLanes, class A>
CONCLAVE_DEVICE A row_sum(A v, A* parts) {
  if constexpr (kLanes <= 32) return sum_of_lanes<kLanes>(v);
  v = sum_of_lanes<32>(v);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  A sum = 0;
#pragma unroll
  for (int i = 0; i < kLanes / 32; ++i) sum += parts[threadIdx.x / kLanes * (kLanes / 32) + i];
  return sum;
}

// f(threads a row, packs a thread) as compile-time constants, or false where none fits rows of
// `hidden` elements.
template <class T, class F>
bool with_cut(int64_t hidden, bool aligned, const F& f) {
  if constexpr (!std::is_same_v<T, double>) {
    if (!aligned || hidden % kPack<T>) return false;
    const int64_t packs = hidden / kPack<T>;
    if (packs <= 16)
      f.template operator()<16, 1>();
    else if (packs <= 32)
      f.template operator()<32, 1>();
    else if (packs <= 128)
      f.template operator()<32, 4>();
    else if (packs <= 256)
      f.template operator()<128, 2>();
    else if (packs <= 384)
      f.template operator()<128, 3>();
    else if (packs <= 512)
      f.template operator()<128, 4>();
    else if (packs <= 1024)
      f.template operator()<256, 4>();
    else
      return false;
    return true;
  }
  return false;
}

}  // namespace conclave::kernels
