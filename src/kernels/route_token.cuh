// What routing's kernels do with a token. A warp a token, kWarps tokens a block, blocks loop over
// tokens. Lane l holds experts l, l + 32, …, kPer of them in registers.
#pragma once
#include <type_traits>

#include "kernels/pack.cuh"
#include "kernels/route.h"

namespace conclave::kernels {

constexpr int kWarps = 8;
constexpr float kSigmoidEpsilon = 1e-20f;
constexpr unsigned kAll = 0xFFFFFFFFu;

CONCLAVE_DEVICE float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(kAll, v, step);
  return v;
}

CONCLAVE_DEVICE float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(kAll, v, step));
  return v;
}

// v[i] belongs to expert lane + 32 i; those past the last are ignored.
template <int kPer>
CONCLAVE_DEVICE void softmax(float (&v)[kPer], int experts, int lane) {
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

CONCLAVE_DEVICE float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// What the weights are taken from: probabilities, sigmoids, or the logits themselves.
template <int kPer>
CONCLAVE_DEVICE void score(float (&v)[kPer], const Route& p, int64_t token, int lane) {
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

// Fills chosen from given ids.
template <int kPer>
CONCLAVE_DEVICE void take(const float (&v)[kPer], const Route& p, int64_t token, Chosen& chosen,
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
CONCLAVE_DEVICE Weighing weighing(const Route& p, const Chosen& chosen) {
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
CONCLAVE_DEVICE float weight_of(const Route& p, const Weighing& w, float score) {
  return p.scoring == RouteScoring::top_k_then_softmax ? expf(score - w.shift) * w.factor
                                                       : score * w.factor;
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

inline int blocks_for(int64_t tokens) {
  constexpr int64_t kMost = 8 * 132;
  const int64_t blocks = (tokens + kWarps - 1) / kWarps;
  return static_cast<int>(blocks < kMost ? blocks : kMost);
}

}  // namespace conclave::kernels
