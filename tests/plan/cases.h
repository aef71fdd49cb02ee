// Shapes that several tests use.
#pragma once
#include "plan/shape.h"

namespace conclave::plan {

inline ModelShape qwen3_30b_a3b() {
  ModelShape m{151'936, 2048, {}, false};
  m.layers.assign(
      48, {.heads = 32, .kv_heads = 4, .head_dim = 128, .experts = 128, .top_k = 8, .ffn = 768});
  return m;
}

// One dense block, then two with experts.
inline ModelShape tiny() {
  ModelShape m{96, 24, {}, false};
  m.layers.assign(3,
                  {.heads = 4, .kv_heads = 2, .head_dim = 6, .experts = 5, .top_k = 2, .ffn = 12});
  m.layers[0] = {.heads = 4, .kv_heads = 2, .head_dim = 6, .dense_ffn = 40};
  return m;
}

}  // namespace conclave::plan
