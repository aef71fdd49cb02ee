// kernels/route_token.cuh, backward.
#include "kernels/route.h"
#include "kernels/route_token.cuh"

namespace conclave::kernels {
namespace {

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
  const bool softmax_first = p.scoring == RouteScoring::softmax_then_top_k;
  const bool of_chosen_alone =
      p.scoring == RouteScoring::top_k_then_softmax || (softmax_first && p.renormalise);
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

    // The gradient of the chosen scores, or logits where the weights are a softmax over these
    // alone.
    const Weighing w = weighing(p, chosen);
    float dot = 0;
    for (int j = 0; j < p.top_k; ++j)
      dot += dweights[token * p.top_k + j] * p.scale * weight_of(p, w, chosen.score[j]);
    for (int j = lane; j < p.top_k; j += 32) {
      const float g = dweights[token * p.top_k + j] * p.scale;
      dchosen[j] = of_chosen_alone ? weight_of(p, w, chosen.score[j]) * (g - dot)
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
    if (dprobs && of_chosen_alone) {
      if (!softmax_first) softmax(v, p.experts, lane);
      softmax_backward();
    }
    for (int j = 0; j < p.top_k; ++j) {
      const int id = chosen.id[j];
#pragma unroll
      for (int i = 0; i < kPer; ++i)
        if (id == lane + 32 * i) d[i] += dchosen[j];
    }
    if (softmax_first && !of_chosen_alone) softmax_backward();
    if (p.scoring == RouteScoring::sigmoid)
#pragma unroll
      for (int i = 0; i < kPer; ++i) d[i] *= v[i] * (1.f - v[i]);
#pragma unroll
    for (int i = 0; i < kPer; ++i)
      if (lane + 32 * i < p.experts) dlogits[token * p.experts + lane + 32 * i] = d[i];
    __syncwarp();  // all have read chosen before the next token's is written
  }
}

}  // namespace

void route_backward(const Route& p, const float* dweights, const float* dprobs, float* dlogits,
                    cudaStream_t stream) {
  if (p.tokens == 0) return;
  by_experts(p.experts, [&](auto per) {
    route_backward_kernel<per.value>
        <<<blocks_for(p.tokens), kWarps * 32, 0, stream>>>(p, dweights, dprobs, dlogits);
  });
  check_launch("route_backward");
}

}  // namespace conclave::kernels
