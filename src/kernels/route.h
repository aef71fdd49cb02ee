// A router's choice on the device: scores of each token's logits, the top_k experts, their weights
// and how often each expert was chosen; the gradient of the logits for fixed ids. The same choice
// as ops/router on the CPU, ties to the lower id.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

enum class RouteScoring { softmax_then_top_k, top_k_then_softmax, sigmoid };

constexpr int kMostRoutedExperts = 512, kMostTopK = 64, kMostGroups = 32;

struct Route {
  const float* logits;  // [tokens, experts]
  const float* bias;    // [experts], added to sigmoid scores for the choice only, or null
  int64_t tokens;
  int experts, top_k;
  RouteScoring scoring;
  bool renormalise;
  float scale;
  int groups, top_groups;  // 1, 1: all experts are chosen from
  const int64_t* given;    // [tokens, top_k] ids instead of a choice, or null
};

// ids [tokens, top_k] (not written when given), weights [tokens, top_k], loads [experts] += how
// often each is in ids. One launch; bytes: the logits once, 12 a pair.
void route(const Route& p, int64_t* ids, float* weights, int64_t* loads, cudaStream_t stream);
// dlogits [tokens, experts] for ids p.given; dprobs [tokens, experts] is the gradient of
// softmax(logits), or with sigmoid of each score over the token's sum, or null.
void route_backward(const Route& p, const float* dweights, const float* dprobs, float* dlogits,
                    cudaStream_t stream);

// ids [tokens, top_k] of the gates of a measurement, the same as ops::balanced_ids and
// ops::uniform_ids.
void balanced_ids(int64_t* ids, int64_t pairs, int experts, cudaStream_t stream);
void uniform_ids(int64_t* ids, int64_t tokens, int top_k, int experts, uint64_t seed,
                 uint64_t stream_number, cudaStream_t stream);

}  // namespace conclave::kernels
