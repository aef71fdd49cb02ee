// A warp a token, kWarps tokens a block, blocks loop over tokens. Lane l holds experts l, l + 32,
// …, kPer of them in registers. top_k rounds of a warp-wide maximum over (score, lower id first)
// keys of 64 bits. Loads are counted in shared memory and added once a block: whole numbers, so
// their order does not matter.
#include <cfloat>

#include "kernels/launch.h"
#include "kernels/route.h"

namespace conclave::kernels {
namespace {

constexpr int kWarps = 8;
constexpr float kSigmoidEpsilon = 1e-20f;
constexpr unsigned kAll = 0xFFFFFFFFu;

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kAll, v, step);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(kAll, v, step));
  return v;
}

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

// v[i] belongs to expert lane + 32 i; those past the last are ignored.
template <int kPer>
__device__ void softmax(float (&v)[kPer], int experts, int lane) {
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPer; ++i)
    if (lane + 32 * i < experts) largest = fmaxf(largest, v[i]);
  largest = warp_max(largest);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    v[i] = lane + 32 * i < experts ? expf(v[i] - largest) : 0.f;
    sum += v[i];
  }
  const float factor = 1.f / warp_sum(sum);
#pragma unroll
  for (int i = 0; i < kPer; ++i) v[i] *= factor;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// What the weights are taken from: probabilities, sigmoids, or the logits themselves.
template <int kPer>
__device__ void score(float (&v)[kPer], const Route& p, int64_t token, int lane) {
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int e = lane + 32 * i;
    v[i] = e < p.experts ? p.logits[token * p.experts + e] : 0.f;
    if (p.scoring == RouteScoring::sigmoid) v[i] = sigmoid(v[i]);
  }
  if (p.scoring == RouteScoring::softmax_then_top_k) softmax(v, p.experts, lane);
}

// A warp's room in shared memory.
struct Chosen {
  int id[kMostTopK];
  float score[kMostTopK];
};

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

// Fills chosen from given ids.
template <int kPer>
__device__ void take(const float (&v)[kPer], const Route& p, int64_t token, Chosen& chosen,
                     int lane) {
  for (int j = lane; j < p.top_k; j += 32) {
    const int64_t id = p.given[token * p.top_k + j];
    if (id < 0 || id >= p.experts) __trap();
    chosen.id[j] = static_cast<int>(id);
  }
  __syncwarp();
  for (int j = 0; j < p.top_k; ++j) {
    const int id = chosen.id[j];
#pragma unroll
    for (int i = 0; i < kPer; ++i)
      if (id == lane + 32 * i) chosen.score[j] = v[i];
  }
  __syncwarp();
}

// Weights before `scale` are score · factor, or with softmax over the chosen exp(score − shift) ·
// factor.
struct Weighing {
  float shift, factor, sum;
};
__device__ Weighing weighing(const Route& p, const Chosen& chosen) {
  Weighing w{0.f, 1.f, 0.f};
  if (p.scoring == RouteScoring::top_k_then_softmax) {
    w.shift = -INFINITY;
    for (int j = 0; j < p.top_k; ++j) w.shift = fmaxf(w.shift, chosen.score[j]);
    for (int j = 0; j < p.top_k; ++j) w.sum += expf(chosen.score[j] - w.shift);
    w.factor = 1.f / w.sum;
    return w;
  }
  for (int j = 0; j < p.top_k; ++j) w.sum += chosen.score[j];
  if (p.scoring == RouteScoring::sigmoid) w.sum += kSigmoidEpsilon;
  if (p.renormalise) w.factor = 1.f / w.sum;
  return w;
}
__device__ float weight_of(const Route& p, const Weighing& w, float score) {
  return p.scoring == RouteScoring::top_k_then_softmax ? expf(score - w.shift) * w.factor
                                                       : score * w.factor;
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

// The formulas of ops/router.cpp, a lane's experts at a time.
template <int kPer>
__global__ void __launch_bounds__(kWarps * 32)
    route_backward_kernel(const Route p, const float* dweights, const float* dprobs,
                          float* dlogits) {
  __shared__ Chosen all_chosen[kWarps];
  __shared__ float all_dchosen[kWarps][kMostTopK];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Chosen& chosen = all_chosen[warp];
  float* dchosen = all_dchosen[warp];
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp; token < p.tokens;
       token += static_cast<int64_t>(gridDim.x) * kWarps) {
    float v[kPer], d[kPer];
    score(v, p, token, lane);
    take(v, p, token, chosen, lane);
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int e = lane + 32 * i;
      d[i] = dprobs && e < p.experts ? dprobs[token * p.experts + e] : 0.f;
    }

    // The gradient of the chosen scores, or logits.
    const Weighing w = weighing(p, chosen);
    float dot = 0;
    for (int j = 0; j < p.top_k; ++j)
      dot += dweights[token * p.top_k + j] * p.scale * weight_of(p, w, chosen.score[j]);
    for (int j = lane; j < p.top_k; j += 32) {
      const float g = dweights[token * p.top_k + j] * p.scale;
      dchosen[j] = p.scoring == RouteScoring::top_k_then_softmax
                       ? weight_of(p, w, chosen.score[j]) * (g - dot)
                   : p.renormalise ? (g - dot) / w.sum
                                   : g;
    }
    __syncwarp();

    // What comes from dprobs and does not pass through the chosen scores.
    if (dprobs && p.scoring == RouteScoring::sigmoid) {
      float sum = 0, mean = 0;
#pragma unroll
      for (int i = 0; i < kPer; ++i)
        if (lane + 32 * i < p.experts) sum += v[i], mean += d[i] * v[i];
      sum = warp_sum(sum) + kSigmoidEpsilon;
      mean = warp_sum(mean) / sum;
#pragma unroll
      for (int i = 0; i < kPer; ++i) d[i] = (d[i] - mean) / sum;
    }
    auto softmax_backward = [&] {
      float mean = 0;
#pragma unroll
      for (int i = 0; i < kPer; ++i) mean += d[i] * v[i];
      mean = warp_sum(mean);
#pragma unroll
      for (int i = 0; i < kPer; ++i) d[i] = v[i] * (d[i] - mean);
    };
    if (dprobs && p.scoring == RouteScoring::top_k_then_softmax) {
      softmax(v, p.experts, lane);
      softmax_backward();
    }
    for (int j = 0; j < p.top_k; ++j) {
      const int id = chosen.id[j];
#pragma unroll
      for (int i = 0; i < kPer; ++i)
        if (id == lane + 32 * i) d[i] += dchosen[j];
    }
    if (p.scoring == RouteScoring::softmax_then_top_k) softmax_backward();
    if (p.scoring == RouteScoring::sigmoid)
#pragma unroll
      for (int i = 0; i < kPer; ++i) d[i] *= v[i] * (1.f - v[i]);
#pragma unroll
    for (int i = 0; i < kPer; ++i)
      if (lane + 32 * i < p.experts) dlogits[token * p.experts + lane + 32 * i] = d[i];
    __syncwarp();  // all have read chosen before the next token's is written
  }
}

// f(std::integral_constant<int, registers a lane>) for so many experts.
template <class F>
void by_experts(int experts, const F& f) {
  if (experts <= 32)
    f(std::integral_constant<int, 1>());
  else if (experts <= 64)
    f(std::integral_constant<int, 2>());
  else if (experts <= 128)
    f(std::integral_constant<int, 4>());
  else if (experts <= 256)
    f(std::integral_constant<int, 8>());
  else if (experts <= 384)
    f(std::integral_constant<int, 12>());
  else
    f(std::integral_constant<int, 16>());
}

int blocks_for(int64_t tokens) {
  constexpr int64_t kMost = 8 * 132;
  const int64_t blocks = (tokens + kWarps - 1) / kWarps;
  return static_cast<int>(blocks < kMost ? blocks : kMost);
}

__global__ void balanced_kernel(int64_t* ids, int64_t pairs, int experts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < pairs) ids[i] = i % experts;
}

// The low 64 bits of base/random.h's philox(seed, index, stream), times n, high half:
// conclave::below.
__device__ uint64_t below(uint64_t n, uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32),
           c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return __umul64hi(c0 | static_cast<uint64_t>(c1) << 32, n);
}

// A thread a token: Floyd's sampling, as ops/router.cpp says.
__global__ void uniform_kernel(int64_t* ids, int64_t tokens, int top_k, int experts, uint64_t seed,
                               uint64_t stream) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (token >= tokens) return;
  int64_t* mine = ids + token * top_k;
  for (int j = 0; j < top_k; ++j) {
    const int64_t last = experts - top_k + j;
    const int64_t drawn = static_cast<int64_t>(below(static_cast<uint64_t>(last + 1), seed, stream,
                                                     static_cast<uint64_t>(token * top_k + j)));
    bool there = false;
    for (int i = 0; i < j; ++i) there |= mine[i] == drawn;
    mine[j] = there ? last : drawn;
  }
}

constexpr int kThreads = 256;
int blocks_in(int64_t n) { return static_cast<int>((n + kThreads - 1) / kThreads); }

}  // namespace

void route(const Route& p, int64_t* ids, float* weights, int64_t* loads, cudaStream_t stream) {
  if (p.tokens == 0) return;
  by_experts(p.experts, [&](auto per) {
    route_kernel<per.value><<<blocks_for(p.tokens), kWarps * 32, 0, stream>>>(
        p, ids, weights, reinterpret_cast<unsigned long long*>(loads));
  });
  check_launch("route");
}

void route_backward(const Route& p, const float* dweights, const float* dprobs, float* dlogits,
                    cudaStream_t stream) {
  if (p.tokens == 0) return;
  by_experts(p.experts, [&](auto per) {
    route_backward_kernel<per.value>
        <<<blocks_for(p.tokens), kWarps * 32, 0, stream>>>(p, dweights, dprobs, dlogits);
  });
  check_launch("route_backward");
}

void balanced_ids(int64_t* ids, int64_t pairs, int experts, cudaStream_t stream) {
  if (pairs == 0) return;
  balanced_kernel<<<blocks_in(pairs), kThreads, 0, stream>>>(ids, pairs, experts);
  check_launch("balanced_ids");
}

void uniform_ids(int64_t* ids, int64_t tokens, int top_k, int experts, uint64_t seed,
                 uint64_t stream_number, cudaStream_t stream) {
  if (tokens == 0) return;
  uniform_kernel<<<blocks_in(tokens), kThreads, 0, stream>>>(ids, tokens, top_k, experts, seed,
                                                             stream_number);
  check_launch("uniform_ids");
}

}  // namespace conclave::kernels
