// ops/attention.h on CUDA; operands were checked by its functions. Private to ops/.
//
// Three ways, chosen by what each can do:
// cudnn  bf16, documents of one length (a multiple of 64) with queries = keys, head_dim = v_dim ≤
// 128
//        or 192 / 128; not the backward of a window that cuts in deterministic mode
//        (attention_cudnn_cuda.h).
// flash  bf16, head_dim and v_dim ≤ 256: any documents, deterministic where at::globalContext()
// says
//        so. Dims are padded to a common multiple of 8. Documents of one length need no copy of
//        their offsets to the device; others do, once a set of offsets.
// math   the rest (fp32 and fp64 above all): ATen's matmul and softmax, document by document, which
//        forms all scores.
// Sinks: flash knows none; its results, and cuDNN's backward for the sinks' own gradient, are
// completed by kernels/attention_sink.h.
#pragma once
#include "ops/attention.h"

namespace conclave::ops::cuda {

Attention attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                    const AttentionOptions& options);
AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                 std::span<const int64_t> q_offsets,
                                 std::span<const int64_t> k_offsets,
                                 const AttentionOptions& options);

// The third way, on any device and in any type.
Attention attention_math(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                         const AttentionOptions& options);
AttentionGrad attention_math_backward(const at::Tensor& dout, const at::Tensor& q,
                                      const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& out, const at::Tensor& lse,
                                      std::span<const int64_t> q_offsets,
                                      std::span<const int64_t> k_offsets,
                                      const AttentionOptions& options);

}  // namespace conclave::ops::cuda
