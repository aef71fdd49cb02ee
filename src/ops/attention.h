// Causal attention over packed documents: grouped queries (heads a multiple of kv_heads), values of
// another width than the keys, sliding windows, sinks. Softmax in fp32 or wider.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>

namespace conclave::ops {

struct AttentionOptions {
  double scale = 1;    // of q·k
  int64_t window = 0;  // > 0: a query sees its own key and the window − 1 before it; 0: all before
  at::Tensor sinks;    // [heads], dtype of q, or undefined: a logit, not scaled, that joins the
                       // denominator of each softmax of its head and nothing else
};

struct Attention {
  at::Tensor out;  // [tokens, heads, v_dim], dtype of q
  at::Tensor
      lse;  // [heads, tokens], fp32 or wider: log of the softmax's denominator, with the sink
};

// q [tokens, heads, head_dim] · k [keys, kv_heads, head_dim] · v [keys, kv_heads, v_dim]. Document
// d has queries q_offsets[d] … q_offsets[d+1) and keys k_offsets[d] … k_offsets[d+1); the last
// query's own key is the document's last, the one before it has the one before (so in training both
// offsets are equal, in generation the keys reach further back). Never forms more than a block of
// scores a thread; keys outside every window of a block are not read, so the cost is
// O(tokens · window).
Attention attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                    const AttentionOptions& options);

struct AttentionGrad {
  at::Tensor dq, dk, dv;  // shapes and dtypes of q, k, v
  at::Tensor dsinks;      // [heads], fp32 or wider; undefined without sinks
};
// `out` and `lse` are attention's.
AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                 std::span<const int64_t> q_offsets,
                                 std::span<const int64_t> k_offsets,
                                 const AttentionOptions& options);

}  // namespace conclave::ops
