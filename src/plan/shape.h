// A model as arithmetic sees it: sizes, no tensors. Recipes fill it from a decoder.
#pragma once
#include <cstdint>
#include <vector>

namespace conclave::plan {

// One layer: grouped-query attention, then either a dense feed-forward or experts.
struct LayerShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool head_norms = true;         // an RMSNorm on each query and key head
  bool attention_biases = false;  // on q, k, v and o
  int64_t dense_ffn = 0;          // dense layer; 0: a layer with experts
  int64_t experts = 0, top_k = 0, ffn = 0;
  int64_t shared_ffn = 0;  // of an expert that every token goes through, 0: none
};

struct ModelShape {
  int64_t vocab = 0, hidden = 0;
  std::vector<LayerShape> layers = {};
  bool tied = false;  // the head is the embedding
};

// Throws std::logic_error naming the first layer that is neither dense nor with experts, or both,
// or has a size that cannot be.
void check(const ModelShape& model);

struct Parameters {
  int64_t total = 0;
  int64_t active =
      0;  // that a token meets: all but the experts it is not sent to; embedding and head count
};
Parameters parameters(const ModelShape& model);

// Floating-point operations of one token, forward and backward (6 a weight that it meets), in rows
// of `seq` tokens: causal attention at half of seq; the head counts, embedding, router, norms,
// rotary and recompute do not. The number behind TFLOP/s and model FLOP utilisation.
int64_t flops_per_token(const ModelShape& model, int64_t seq);

}  // namespace conclave::plan
