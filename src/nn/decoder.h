// A decoder: embedding, blocks, final norm, head. It owns its units and knows no rank; who runs it
// gathers a unit's weights before its segment and may release them after (parallel/).
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nn/block.h"

namespace conclave::nn {

// Latent attention: each head has a query and a key of nope + rope and a value of v_dim, made from
// latents that all heads share.
struct MlaFacts {
  int64_t q_rank = 0;   // 0: queries straight from the hidden states
  int64_t kv_rank = 0;  // 0: no latent attention
  int64_t nope = 0, rope = 0, v_dim = 0;
};

// Sizes of one layer, for forecasts and for generation. 0 where the layer has no such part.
struct LayerFacts {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // with mla: heads alone
  MlaFacts mla;
  int64_t window = 0;             // keys that a query sees at most, its own included; 0: all
  bool head_norms = false;        // an RMSNorm on each query and key head
  bool whole_norms = false;       // an RMSNorm over all query heads, one over all key heads
  bool sinks = false;             // a logit a head in the softmax's denominator
  bool attention_biases = false;  // on q, k, v and o; with mla on the two down-projections and o
  int64_t dense_ffn = 0;          // dense layer
  int64_t experts = 0, top_k = 0, ffn = 0;  // layer with experts
  int64_t shared_ffn = 0;                   // of all shared experts together
  bool router_bias = false, correction_bias = false, expert_biases = false;
};

struct Layer {
  std::string name;  // its prefix in the checkpoint, without the dot: model.layers.0
  std::unique_ptr<Block> block;
  Unit* dense = nullptr;
  Unit* experts = nullptr;  // none in a dense layer
  Unit* router = nullptr;   // untrained: buffers of the router; none where it has none
  LayerFacts facts;
};

// A module of multi-token prediction (arXiv 2412.19437, section 2.2). Its input at position i is
// eh_proj of [enorm(embedding of token i + depth), hnorm(state i)], where the states are those
// that the main model's head sees, or the module before's; then come a layer and a norm, whose
// output the main model's head turns into a prediction of token i + depth + 1.
struct Mtp {
  Weight *enorm = nullptr, *hnorm = nullptr, *norm = nullptr;  // [hidden]
  Weight* eh_proj = nullptr;                                   // [hidden, 2 · hidden]
  Layer layer;  // all weights but the experts' are in layer.dense
};

// What of a decoder this process holds: all layers, and of each
struct Share {
  int64_t expert_ranks = 1;  // one of so many equal parts of the experts,
  int64_t expert_rank = 0;   // the so many-th
  bool ends = true;  // embedding, final norm and head; without: a pipeline rank between others
};

struct Decoder {
  std::string architecture;  // e.g. Qwen3MoeForCausalLM
  std::string model_type;    // e.g. qwen3_moe, as config.json says it
  std::string model_file;    // the source that wires its blocks, for docs/one_token.md
  int64_t vocab = 0, hidden = 0, max_positions = 0;
  int64_t padding = -1;  // looking up this token leaves no gradient in its row of the embedding
  double norm_eps = 0, initializer_range = 0.02;
  bool tied = false;  // the head is the embedding

  std::vector<std::unique_ptr<Unit>>
      units;  // embedding, each layer's, final norm, head: in order of use
  Unit *embedding_unit = nullptr, *final_unit = nullptr,
       *head_unit = nullptr;  // head_unit == embedding_unit if tied
  Weight *embedding = nullptr, *final_norm = nullptr, *head = nullptr;
  std::vector<Layer> layers;
  std::vector<Mtp> mtp;  // in training only, where they are wanted; units after the head's

  // Layer i < layers.size(), or after them that of a module of multi-token prediction.
  const Layer& layer(size_t i) const {
    return i < layers.size() ? layers[i] : mtp.at(i - layers.size()).layer;
  }

  // What a checkpoint may hold beside the weights, read past on loading: names, `*` for any run of
  // characters; and weights under a second name, read past too, and written on saving.
  std::vector<std::string> beside;
  std::vector<std::pair<std::string, const Weight*>> copies;

  Share share;  // set before the first unit

  // An untrained unit is fp32 where dtype is narrower: its buffers stay exact in a bf16 model.
  Unit& add_unit(std::string name, at::ScalarType dtype, bool trained = true);
  // The embedding's unit with its weight; first of all calls. The final norm and the head's unit;
  // last of all calls. Both nothing without `share.ends`.
  void begin(at::ScalarType dtype);
  void finish(at::ScalarType dtype);
};

}  // namespace conclave::nn
