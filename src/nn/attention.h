// Grouped-query attention over packed documents, and what its queries and keys go through first.
#pragma once
#include "nn/block.h"
#include "ops/rotary.h"

namespace conclave::nn {

// x [tokens, heads · head_dim] → RMSNorm of each head with w [head_dim], then rotated to its
// position; [tokens, heads, head_dim].
Value head_norm_rotary(Tape& tape, const Value& x, Weight& w, double eps, const Rows& rows,
                       const ops::RotaryTable& table);

// q [tokens, heads, head_dim], k [tokens, kv_heads, head_dim], v [tokens, kv_heads · head_dim] →
// [tokens, heads · head_dim]. Causal, within documents; with rows.cache, keys and values are
// appended to the cache of `layer` first.
Value attention(Tape& tape, const Value& q, const Value& k, const Value& v, const Rows& rows,
                double scale, int layer);

}  // namespace conclave::nn
