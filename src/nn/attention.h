// Grouped-query attention over packed documents, and what its queries and keys go through first.
#pragma once
#include <utility>

#include "nn/block.h"
#include "ops/rotary.h"

namespace conclave::nn {

// x [tokens, heads · head_dim] → each head rotated to its position; [tokens, heads, head_dim],
// class "rotary".
Value rotary(Tape& tape, const Value& x, int64_t heads, const Rows& rows,
             const ops::RotaryTable& table, ops::RotaryForm form = ops::RotaryForm::half);

// Queries [tokens, heads · head_dim] and keys [tokens, kv_heads · head_dim] → RMSNorm of each head
// with q_weight and k_weight [head_dim], then rotated to its position; [tokens, heads, head_dim]
// and [tokens, kv_heads, head_dim], class "rotary".
std::pair<Value, Value> head_norm_rotary(Tape& tape, const Value& q, const Value& k,
                                         Weight& q_weight, Weight& k_weight, double eps,
                                         const Rows& rows, const ops::RotaryTable& table);

struct AttentionOptions {
  double scale = 1;         // of q·k
  int64_t window = 0;       // > 0: a query sees its own key and the window − 1 before it
  Weight* sinks = nullptr;  // [heads]: logits that join the softmax's denominator
};

// q [tokens, heads, head_dim], k [tokens, kv_heads, head_dim], v [tokens, kv_heads · v_dim] →
// [tokens, heads · v_dim], class "attention". Causal, within documents; with rows.cache, keys and
// values are appended to the cache of `layer` first.
Value attention(Tape& tape, const Value& q, const Value& k, const Value& v, const Rows& rows,
                const AttentionOptions& options, int layer);

// Throws unless a layer may use rows.cache: a cache is for one document, on a tape that does not
// record.
void check_cached(const Tape& tape, const Rows& rows);

}  // namespace conclave::nn
