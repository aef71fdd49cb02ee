// The backward of causal attention that adds in one order, as a graph of cuDNN's made here with
// cudnn-frontend's headers: ATen's call of cuDNN cannot ask for it. Private to ops/.
//
// It writes the gradient of the scores, [heads, length, length] of bf16, and multiplies it with the
// keys afterwards. So documents, or the heads of one, take turns in kCudnnScores bytes.
#pragma once
#include "ops/attention.h"

namespace conclave::ops::cuda {

inline constexpr int64_t kCudnnScores = int64_t{1} << 30;

// Documents of one length, with as many keys as queries, all of them bf16.
struct CudnnAttention {
  int64_t documents, length, heads, kv_heads, head_dim, v_dim;
  double scale;
  auto operator<=>(const CudnnAttention&) const = default;
};

// Whether cuDNN has it for this device, and the scores of heads that share keys fit.
bool has_deterministic_cudnn(const CudnnAttention& n, int64_t scores = kCudnnScores);

// As attention_backward, without sinks; stats: lse as [documents, heads, length].
AttentionGrad deterministic_cudnn_backward(const CudnnAttention& n, const at::Tensor& dout,
                                           const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const at::Tensor& out,
                                           const at::Tensor& stats, int64_t scores = kCudnnScores);

}  // namespace conclave::ops::cuda
