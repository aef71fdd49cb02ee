// kernels/route_token.cuh, forward: top_k rounds of a warp-wide maximum over (score, lower id
// first) keys of 64 bits. Loads are counted in shared memory and added once a block: whole numbers,
// so their order does not matter.
#include "kernels/route.h"
#include "kernels/route_token.cuh"

namespace conclave::kernels {
namespace {

__device__ __forceinline__ uint64_t warp_max(uint64_t v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(kAll, v, step);
    v = other > v ? other : v;
  }
  return v;
}

// Larger scores have larger keys, of equal ones the lower id; NaN is below all. Never 0, which
// stands for what is out.
__device__ __forceinline__ uint64_t key_of(float score, int id) {
  uint32_t bits = 0;
  if (score == score) {
    bits = __float_as_uint(score == 0.f ? 0.f : score);  // −0 and 0 are equal
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
  return static_cast<uint64_t>(bits) << 32 | (kAll - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int id_of(uint64_t key) {
  return static_cast<int>(kAll - static_cast<uint32_t>(key));
}

// One bit a group, set where its experts may be chosen: the top_groups with the largest sums of
// their two best.
template <int kPer>
__device__ uint32_t best_groups(const float (&biased)[kPer], const Route& p, float* room,
                                int lane) {
#pragma unroll
  for (int i = 0; i < kPer; ++i)
    if (lane + 32 * i < p.experts) room[lane + 32 * i] = biased[i];
  __syncwarp();
  uint64_t key = 0;
  if (lane < p.groups) {
    const int size = p.experts / p.groups;
    float first = -INFINITY, second = -INFINITY;
    for (int e = lane * size; e < (lane + 1) * size; ++e) {
      const float s = room[e];
      if (s > first)
        second = first, first = s;
      else if (s > second)
        second = s;
    }
    key = key_of(first + second, lane);
  }
  __syncwarp();
  uint32_t groups = 0;
  for (int j = 0; j < p.top_groups; ++j) {
    const int best = id_of(warp_max(key));
    groups |= 1u << best;
    if (lane == best) key = 0;
  }
  return groups;
}

// Fills chosen.id with the choice, and chosen.score with v of the chosen.
template <int kPer>
__device__ void choose(const float (&v)[kPer], const Route& p, Chosen& chosen, float* room,
                       int lane) {
  uint64_t keys[kPer];
  float biased[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int e = lane + 32 * i;
    biased[i] = p.bias && e < p.experts ? v[i] + p.bias[e] : v[i];
  }
  uint32_t groups = kAll;
  if (p.groups > 1) groups = best_groups(biased, p, room, lane);
  const int size = p.experts / p.groups;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int e = lane + 32 * i;
    const bool in = e < p.experts && (p.groups == 1 || (groups >> e / size & 1));
    keys[i] = in ? key_of(biased[i], e) : 0;
  }
  for (int j = 0; j < p.top_k; ++j) {
    uint64_t best = 0;
#pragma unroll
    for (int i = 0; i < kPer; ++i) best = keys[i] > best ? keys[i] : best;
    best = warp_max(best);
#pragma unroll
    for (int i = 0; i < kPer; ++i)
      if (keys[i] == best) {  // keys of what is in differ, and there are at least top_k of them
        keys[i] = 0;
        chosen.id[j] = id_of(best);
        chosen.score[j] = v[i];
      }
  }
  __syncwarp();
}

template <int kPer>
__global__ void __launch_bounds__(kWarps * 32)
    route_kernel(const Route p, int64_t* ids, float* weights, unsigned long long* loads) {
  __shared__ Chosen all_chosen[kWarps];
  __shared__ float rooms[kWarps][32 * kPer];
  __shared__ int counts[32 * kPer];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int e = threadIdx.x; e < p.experts; e += kWarps * 32) counts[e] = 0;
  __syncthreads();
  Chosen& chosen = all_chosen[warp];
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp; token < p.tokens;
       token += static_cast<int64_t>(gridDim.x) * kWarps) {
    float v[kPer];
    score(v, p, token, lane);
    if (p.given)
      take(v, p, token, chosen, lane);
    else
      choose(v, p, chosen, rooms[warp], lane);
    const Weighing w = weighing(p, chosen);
    for (int j = lane; j < p.top_k; j += 32) {
      weights[token * p.top_k + j] = weight_of(p, w, chosen.score[j]) * p.scale;
      if (!p.given) ids[token * p.top_k + j] = chosen.id[j];
      atomicAdd(&counts[chosen.id[j]], 1);
    }
    __syncwarp();
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.experts; e += kWarps * 32)
    if (counts[e]) atomicAdd(&loads[e], static_cast<unsigned long long>(counts[e]));
}

}  // namespace

void route(const Route& p, int64_t* ids, float* weights, int64_t* loads, cudaStream_t stream) {
  if (p.tokens == 0) return;
  by_experts(p.experts, [&](auto per) {
    route_kernel<per.value><<<blocks_for(p.tokens), kWarps * 32, 0, stream>>>(
        p, ids, weights, reinterpret_cast<unsigned long long*>(loads));
  });
  check_launch("route");
}

}  // namespace conclave::kernels
