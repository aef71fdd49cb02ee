// Multi-head latent attention: keys and values are made from one narrow latent a token. Source:
// arXiv 2405.04434, 2.1; transformers, models/deepseek_v3.
#pragma once
#include "nn/block.h"
#include "ops/rotary.h"

namespace conclave::nn {

struct MlaOptions {
  int64_t heads, nope, rope,
      v_dim;  // a head's query and key: nope elements, then rope rotated ones
  double scale;
};

// q [tokens, heads · (nope + rope)] before rotary · latent [tokens, kv_rank] after its norm ·
// k_rope [tokens, rope] before rotary, shared by all heads · kv_b [heads · (nope + v_dim), kv_rank]
// → [tokens, heads · v_dim], class "attention". Rotary of neighbouring pairs; causal, within
// documents.
// For the backward it keeps q, latent, k_rope, its output and the softmax's statistics; keys and
// values of the heads are made again there. With rows.cache, latents and rotated k_rope are
// appended to the cache of `layer` first.
Value mla(Tape& tape, const Value& q, const Value& latent, const Value& k_rope, Weight& kv_b,
          const Rows& rows, const ops::RotaryTable& table, const MlaOptions& options, int layer);

}  // namespace conclave::nn
