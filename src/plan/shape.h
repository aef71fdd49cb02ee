// A model as arithmetic sees it: sizes, no tensors. Recipes fill it from a decoder.
#pragma once
#include <cstdint>
#include <vector>

namespace conclave::plan {

// Latent attention (nn::MlaFacts). kv_rank 0: grouped-query attention.
struct MlaShape {
  int64_t q_rank = 0, kv_rank = 0, nope = 0, rope = 0, v_dim = 0;  // q_rank 0: no query latent
};

// One layer: attention, then either a dense feed-forward or experts. As nn::LayerFacts.
struct LayerShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // with mla: heads alone
  MlaShape mla = {};
  int64_t window = 0;             // keys that a query sees at most, 0: all
  bool head_norms = false;        // an RMSNorm on each query and key head
  bool whole_norms = false;       // an RMSNorm over all query heads, one over all key heads
  bool sinks = false;             // a weight a head
  bool attention_biases = false;  // on q, k, v and o; with mla on the two down-projections and o
  int64_t dense_ffn = 0;          // dense layer; 0: a layer with experts
  int64_t experts = 0, top_k = 0, ffn = 0;
  int64_t shared_ffn = 0;  // of the experts that every token goes through, 0: none
  bool router_bias = false, expert_biases = false;
  bool correction_bias = false;  // a number an expert that is not trained by gradients

  int64_t query_width() const { return heads * (mla.kv_rank ? mla.nope + mla.rope : head_dim); }
  int64_t value_width() const { return heads * (mla.kv_rank ? mla.v_dim : head_dim); }
};

struct ModelShape {
  int64_t vocab = 0, hidden = 0;
  std::vector<LayerShape> layers = {};
  bool tied = false;                 // the head is the embedding
  std::vector<LayerShape> mtp = {};  // the layers of multi-token prediction modules
  bool ends = true;          // embedding, final norm and head; without: a middle pipeline rank
  int64_t expert_ranks = 1;  // each layer holds 1 of so many equal parts of its experts
};

// Throws std::logic_error naming the first layer that is neither dense nor with experts, or both,
// or has a size that cannot be.
void check(const ModelShape& model);

// Weights that gradients train, as this rank holds them; without multi-token prediction unless
// said.
struct Parameters {
  int64_t total = 0;
  int64_t active = 0;   // that a token meets: all but the experts it is not sent to; embedding and
                        // head count
  int64_t experts = 0;  // of total: in the experts' units
  int64_t mtp = 0;      // of the multi-token prediction modules, beside total
  int64_t mtp_experts = 0;  // of mtp
  int64_t untrained = 0;    // correction biases, of all layers
};
Parameters parameters(const ModelShape& model);

// Floating-point operations of one token, forward and backward (6 a weight that it meets), in rows
// of `seq` tokens: causal attention at half of seq, a window at its exact number of (query, key)
// pairs. Router, embedding, norms, rotary and recompute do not count.
struct Flops {
  int64_t projections = 0;  // attention's
  int64_t scores = 0;       // and values
  int64_t experts = 0, shared = 0, dense = 0, head = 0;
  int64_t mtp = 0;  // of the multi-token prediction modules, their share of the head included
  // Without mtp: the number behind TFLOP/s and model FLOP utilisation.
  int64_t total() const { return projections + scores + experts + shared + dense + head; }
};
Flops flops_per_token(const ModelShape& model, int64_t seq);

}  // namespace conclave::plan
