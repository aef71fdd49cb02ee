// Causal attention over packed documents, grouped queries (heads a multiple of kv_heads). Softmax
// in fp32 or wider.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>

namespace conclave::ops {

struct Attention {
  at::Tensor out;  // [tokens, heads, head_dim], dtype of q
  at::Tensor lse;  // [heads, tokens], fp32 or wider: log of the softmax's denominator
};

// q [tokens, heads, head_dim] · k, v [keys, kv_heads, head_dim]. Document d has queries
// q_offsets[d] … q_offsets[d+1) and keys k_offsets[d] … k_offsets[d+1); the last query sees all of
// the document's keys, the one before it one fewer (so in training both offsets are equal, in
// generation the keys reach further back). Never forms more than a block of scores a thread.
Attention attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                    double scale);

struct AttentionGrad {
  at::Tensor dq, dk, dv;  // shapes and dtypes of q, k, v
};
AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                 std::span<const int64_t> q_offsets,
                                 std::span<const int64_t> k_offsets, double scale);

}  // namespace conclave::ops
