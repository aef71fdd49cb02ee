// Causal attention by graphs of cuDNN's, made here with cudnn-frontend's headers: ATen's call of
// cuDNN knows no windows, no sinks and no backward that adds in one order. Private to ops/.
//
// The deterministic backward writes the gradient of the scores, [heads, length, length] of bf16,
// and multiplies it with the keys afterwards, so documents, or the heads of one, take turns in
// kCudnnScores bytes. All else is done at once.
#pragma once
#include "ops/attention.h"

namespace conclave::ops::cuda {

inline constexpr int64_t kCudnnScores = int64_t{1} << 30;

// Documents of one length, with as many keys as queries, all of them bf16.
struct CudnnAttention {
  int64_t documents, length, heads, kv_heads, head_dim, v_dim;
  double scale;
  int64_t window = 0;          // as in AttentionOptions
  bool sinks = false;          // the forward's
  bool deterministic = false;  // the backward's; the forward always is
  auto operator<=>(const CudnnAttention&) const = default;
};

// Whether cuDNN has it for this device; says so aloud where not. A deterministic backward's scores
// of heads that share keys must fit.
bool has_cudnn_forward(const CudnnAttention& n);
bool has_cudnn_backward(const CudnnAttention& n, int64_t scores = kCudnnScores);

// As attention. sinks: [heads] of fp32, undefined without.
Attention cudnn_forward(const CudnnAttention& n, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v, const at::Tensor& sinks);
// As attention_backward, without dsinks.
AttentionGrad cudnn_backward(const CudnnAttention& n, const at::Tensor& dout, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                             const at::Tensor& lse, int64_t scores = kCudnnScores);

}  // namespace conclave::ops::cuda
