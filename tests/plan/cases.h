// Shapes that several tests use.
#pragma once
#include "plan/shape.h"

namespace conclave::plan {

inline ModelShape qwen3_30b_a3b() {
  ModelShape m{151'936, 2048, {}, false};
  m.layers.assign(48, {.heads = 32,
                       .kv_heads = 4,
                       .head_dim = 128,
                       .head_norms = true,
                       .experts = 128,
                       .top_k = 8,
                       .ffn = 768});
  return m;
}

// GPT-OSS: every other layer with a window, the first one too.
inline ModelShape gpt_oss(int64_t layers, int64_t experts) {
  ModelShape m{201'088, 2880, {}, false};
  for (int64_t i = 0; i < layers; ++i)
    m.layers.push_back({.heads = 64,
                        .kv_heads = 8,
                        .head_dim = 64,
                        .window = i % 2 == 0 ? 128 : 0,
                        .sinks = true,
                        .attention_biases = true,
                        .experts = experts,
                        .top_k = 4,
                        .ffn = 2880,
                        .router_bias = true,
                        .expert_biases = true});
  return m;
}

// DeepSeek-V3 and Kimi-K2.
inline ModelShape latent_attention(int64_t vocab, int64_t heads, int64_t experts, int dense_layers,
                                   int mtp) {
  const MlaShape mla{.q_rank = 1536, .kv_rank = 512, .nope = 128, .rope = 64, .v_dim = 128};
  const LayerShape layer{.heads = heads,
                         .mla = mla,
                         .experts = experts,
                         .top_k = 8,
                         .ffn = 2048,
                         .shared_ffn = 2048,
                         .correction_bias = true};
  ModelShape m{vocab, 7168, {}, false};
  m.layers.assign(61, layer);
  for (int i = 0; i < dense_layers; ++i)
    m.layers[static_cast<size_t>(i)] = {.heads = heads, .mla = mla, .dense_ffn = 18'432};
  m.mtp.assign(static_cast<size_t>(mtp), layer);
  return m;
}
inline ModelShape deepseek_v3() { return latent_attention(129'280, 128, 256, 3, 1); }
inline ModelShape kimi_k2() { return latent_attention(163'840, 64, 384, 1, 0); }

// One dense block, then two with experts.
inline ModelShape tiny() {
  ModelShape m{96, 24, {}, false};
  m.layers.assign(3, {.heads = 4,
                      .kv_heads = 2,
                      .head_dim = 6,
                      .head_norms = true,
                      .experts = 5,
                      .top_k = 2,
                      .ffn = 12});
  m.layers[0] = {.heads = 4, .kv_heads = 2, .head_dim = 6, .head_norms = true, .dense_ffn = 40};
  return m;
}

}  // namespace conclave::plan
