// What every architecture's config.json says in the same way, and the decoder around the blocks.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "models/keys.h"
#include "models/registry.h"
#include "nn/attention.h"
#include "nn/router.h"

namespace conclave::models {

// What transformers' config class of an architecture takes where config.json is silent.
struct Defaults {
  int64_t kv_heads = 0, head_dim = 0;  // 0: heads; hidden / heads
  int64_t max_positions = 32768;
  double eps = 1e-6, aux_coef = 0.001;
  bool biases = false, renormalise = false;
  const char* experts = "num_experts";        // the key of their number
  const char* ffn = "moe_intermediate_size";  // the key of an expert's width
};

struct Frame {
  int64_t hidden, layers, vocab, heads, kv_heads, head_dim, max_positions;
  int64_t experts, top_k, ffn;  // of the layers with experts
  int64_t padding;              // Decoder::padding
  double eps, initializer_range;
  double aux_coef, sequence_aux_coef, z_coef;  // of the router's losses
  nn::Share share;
  at::Device device;  // of the rotary tables
  bool tied;
  bool biases;       // of the attention's projections
  bool renormalise;  // norm_topk_prob: the chosen experts' weights sum to 1
  // Modules of multi-token prediction in the checkpoint, and whether they are made.
  int64_t mtp_modules = 0;
  bool mtp_made;

  // Reads and checks them; also refuses activations other than silu, and dropout.
  Frame(const Keys& k, const DecoderOptions& options, const Defaults& otherwise);

  double scale() const;  // of a query times a key: 1 / √head_dim
  // A bias of the attention's projections, where there are any.
  nn::Weight* bias(nn::Weights& w, const std::string& name, int64_t width) const;
  // That `top_groups` of `groups` groups of experts can be chosen from (ops/router.h).
  void check_groups(const Keys& k, int64_t groups, int64_t top_groups) const;
  // Softmax over all experts, then the chosen ones; other scorings change it.
  nn::RouterOptions router(int layer) const;
  // Sizes of a layer with grouped-query attention and experts.
  nn::LayerFacts facts() const;
  // For the turned `dim` elements of a head.
  ops::RotaryTable rotary(const Keys& k, int64_t dim, const ops::RopeConfig& otherwise,
                          at::ScalarType dtype) const;
};

// Embedding, final norm and head as `frame` says, and between them the layers: their facts (with
// experts, and with a correction bias, a unit for each), then their blocks. Layers after the last
// are those of the modules of multi-token prediction. src/models/MODEL_TYPE.cpp wires the blocks.
nn::Decoder assemble(
    const Frame& frame, const std::string& model_type, at::ScalarType dtype,
    const std::function<nn::LayerFacts(int layer)>& facts,
    const std::function<std::unique_ptr<nn::Block>(int layer, nn::Weights weights)>& block);

}  // namespace conclave::models
