// What cuDNN can of causal attention and ATen's call of it cannot, as graphs made here with
// cudnn-frontend's headers. Private to ops/.
//
// forward        windows and sinks.
// deterministic  a backward that adds in one order. It writes the gradient of the scores, [heads,
//                length, length] of bf16, and multiplies it with the keys afterwards, so documents,
//                or the heads of one, take turns in kCudnnScores bytes.
#pragma once
#include "ops/attention.h"

namespace conclave::ops::cuda {

inline constexpr int64_t kCudnnScores = int64_t{1} << 30;

// Documents of one length, with as many keys as queries, all of them bf16.
struct CudnnAttention {
  int64_t documents, length, heads, kv_heads, head_dim, v_dim;
  double scale;
  int64_t window = 0;  // as in AttentionOptions; forward only, as sinks
  bool sinks = false;
  auto operator<=>(const CudnnAttention&) const = default;
};

// Whether cuDNN has it for this device; says so aloud where not.
bool has_cudnn_forward(const CudnnAttention& n);
// The same of the deterministic backward; the scores of heads that share keys must fit.
bool has_cudnn_deterministic(const CudnnAttention& n, int64_t scores = kCudnnScores);

// As attention. sinks: [heads] of fp32, undefined without.
Attention cudnn_forward(const CudnnAttention& n, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v, const at::Tensor& sinks);
// As attention_backward, without dsinks; stats: lse as [documents, heads, length].
AttentionGrad cudnn_deterministic(const CudnnAttention& n, const at::Tensor& dout,
                                  const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& out, const at::Tensor& stats,
                                  int64_t scores = kCudnnScores);

}  // namespace conclave::ops::cuda
