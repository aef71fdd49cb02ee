// Qwen3-MoE: 30B-A3B, 235B-A22B. Reference: transformers, models/qwen3_moe. Differs from Mixtral by
// q/k norms and by weights that are renormalised or not (norm_topk_prob).
#include <algorithm>
#include <cmath>

#include "models/keys.h"
#include "models/registry.h"
#include "models/rope.h"
#include "nn/attention.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/router.h"

namespace conclave::models {
namespace {

using namespace nn;

struct Qwen3MoeConfig {
  int64_t hidden, layers, vocab, heads, kv_heads, head_dim, dense_ffn, experts, top_k, ffn,
      sparse_step, max_positions;
  double eps, aux_coef, sequence_aux_coef, z_coef, initializer_range;
  ops::RopeConfig rope;
  bool renormalise, tied, biases;
  std::vector<int64_t> dense_layers;

  Qwen3MoeConfig(const Keys& k, const DecoderOptions& options);
  bool sparse(int64_t layer) const {
    return std::find(dense_layers.begin(), dense_layers.end(), layer) == dense_layers.end() &&
           (layer + 1) % sparse_step == 0;
  }
};

class Qwen3MoeBlock : public Block {
 public:
  Qwen3MoeBlock(const Qwen3MoeConfig& c, int layer, const ops::RotaryTable& rotary, Weights w);
  Value mix(Tape& t, const Value& x, const Rows& rows) override;
  bool has_experts() const override { return sparse_; }
  Routed route(Tape& t, const Value& h, const Rows& rows) override;
  Value experts(Tape& t, const Received& r) override {
    return grouped_swiglu(t, r, {*gate_up_, *down_});
  }
  Value join(Tape& t, const Value& h, const Value& combined) override {
    return add(t, h, combined);
  }
  Value feed_forward(Tape& t, const Value& h) override;

 private:
  Weight* bias(Weights& w, const std::string& name, int64_t width) {
    return c_.biases ? &w.add(name, {width}) : nullptr;
  }

  const Qwen3MoeConfig c_;
  const int layer_;
  const bool sparse_;
  const ops::RotaryTable rotary_;
  Weight &input_norm_, &q_, &k_, &v_, &o_, &q_norm_, &k_norm_, &ffn_norm_;
  Weight *q_bias_, *k_bias_, *v_bias_, *o_bias_;
  Weight *router_ = nullptr, *gate_up_, *down_;
};

Qwen3MoeBlock::Qwen3MoeBlock(const Qwen3MoeConfig& c, int layer, const ops::RotaryTable& rotary,
                             Weights w)
    : c_(c),
      layer_(layer),
      sparse_(c.sparse(layer)),
      rotary_(rotary),
      input_norm_(w.add("input_layernorm.weight", {c.hidden})),
      q_(w.add("self_attn.q_proj.weight", {c.heads * c.head_dim, c.hidden})),
      k_(w.add("self_attn.k_proj.weight", {c.kv_heads * c.head_dim, c.hidden})),
      v_(w.add("self_attn.v_proj.weight", {c.kv_heads * c.head_dim, c.hidden})),
      o_(w.add("self_attn.o_proj.weight", {c.hidden, c.heads * c.head_dim})),
      q_norm_(w.add("self_attn.q_norm.weight", {c.head_dim})),
      k_norm_(w.add("self_attn.k_norm.weight", {c.head_dim})),
      ffn_norm_(w.add("post_attention_layernorm.weight", {c.hidden})),
      q_bias_(bias(w, "self_attn.q_proj.bias", c.heads * c.head_dim)),
      k_bias_(bias(w, "self_attn.k_proj.bias", c.kv_heads * c.head_dim)),
      v_bias_(bias(w, "self_attn.v_proj.bias", c.kv_heads * c.head_dim)),
      o_bias_(bias(w, "self_attn.o_proj.bias", c.hidden)) {
  if (sparse_) {
    router_ = &w.add("mlp.gate.weight", {c.experts, c.hidden});
    gate_up_ = &w.add_experts("mlp.experts.{}.{gate_proj,up_proj}.weight",
                              {c.experts, 2 * c.ffn, c.hidden});
    down_ = &w.add_experts("mlp.experts.{}.down_proj.weight", {c.experts, c.hidden, c.ffn});
  } else {
    gate_up_ = &w.add_stack("mlp.{gate_proj,up_proj}.weight", {2 * c.dense_ffn, c.hidden});
    down_ = &w.add("mlp.down_proj.weight", {c.hidden, c.dense_ffn});
  }
}

Value Qwen3MoeBlock::mix(Tape& t, const Value& x, const Rows& rows) {  // x [tokens, hidden]
  Value n = rms_norm(t, x, input_norm_, c_.eps);
  Value q = head_norm_rotary(t, linear(t, n, q_, q_bias_, "qkv"), q_norm_, c_.eps, rows,
                             rotary_);  // [tokens, heads, head_dim]
  Value k = head_norm_rotary(t, linear(t, n, k_, k_bias_, "qkv"), k_norm_, c_.eps, rows,
                             rotary_);  // [tokens, kv_heads, head_dim]
  Value v = linear(t, n, v_, v_bias_, "qkv");
  Value a = attention(t, q, k, v, rows, {.scale = 1 / std::sqrt(static_cast<double>(c_.head_dim))},
                      layer_);
  return add(t, x, linear(t, a, o_, o_bias_));
}

Routed Qwen3MoeBlock::route(Tape& t, const Value& h, const Rows& rows) {
  return nn::route(t, rms_norm(t, h, ffn_norm_, c_.eps), *router_, rows,
                   {.top_k = c_.top_k,
                    .renormalise = c_.renormalise,
                    .aux_coef = c_.aux_coef,
                    .sequence_aux_coef = c_.sequence_aux_coef,
                    .z_coef = c_.z_coef,
                    .layer = layer_});
}

Value Qwen3MoeBlock::feed_forward(Tape& t, const Value& h) {
  return add(t, h, dense_swiglu(t, rms_norm(t, h, ffn_norm_, c_.eps), *gate_up_, *down_));
}

Qwen3MoeConfig::Qwen3MoeConfig(const Keys& k, const DecoderOptions& options)
    : hidden(k.count({"hidden_size"})),
      layers(k.count({"num_hidden_layers"})),
      vocab(k.count({"vocab_size"})),
      heads(k.count({"num_attention_heads"})),
      kv_heads(k.count({"num_key_value_heads"}, heads)),
      head_dim(k.count({"head_dim"}, std::max<int64_t>(hidden / heads, 1))),
      dense_ffn(k.count({"intermediate_size"}, 6144)),
      experts(k.count({"num_local_experts", "num_experts"})),
      top_k(k.count({"num_experts_per_tok"})),
      ffn(k.count({"moe_intermediate_size"})),
      sparse_step(k.count({"decoder_sparse_step"}, 1)),
      max_positions(k.count({"max_position_embeddings"}, 32768)),
      eps(k.number({"rms_norm_eps"}, 1e-6)),
      aux_coef(options.aux_coef < 0 ? k.number({"router_aux_loss_coef"}, 0.001) : options.aux_coef),
      sequence_aux_coef(std::max(options.sequence_aux_coef, 0.0)),
      z_coef(std::max(options.z_coef, 0.0)),
      initializer_range(k.number({"initializer_range"}, 0.02)),
      rope(read_rope(k, 10000)),
      renormalise(k.flag("norm_topk_prob", false)),
      tied(k.flag("tie_word_embeddings", false)),
      biases(k.flag("attention_bias", false)),
      dense_layers(k.indices("mlp_only_layers")) {
  if (heads % kv_heads)
    k.refuse("num_key_value_heads", "expected a divisor of num_attention_heads");
  if (head_dim % 2)
    k.refuse("head_dim", "expected an even number (rotary pairs), got " + std::to_string(head_dim));
  if (top_k > experts)
    k.refuse("num_experts_per_tok", "expected at most num_experts = " + std::to_string(experts));
  if (!(eps > 0)) k.refuse("rms_norm_eps", "expected a number above 0");
  if (k.text({"hidden_act"}, "silu") != "silu")
    k.refuse("hidden_act", "expected silu; others are not supported");
  if (k.flag("use_sliding_window", false))
    k.refuse("use_sliding_window",
             "expected false; windows are not supported for this architecture yet");
  if (k.number({"attention_dropout"}, 0) != 0)
    k.refuse("attention_dropout", "expected 0; dropout is not supported");
  k.refuse_unknown({"architectures", "model_type"});
}

}  // namespace

Decoder make_qwen3_moe(const nlohmann::json& config, const std::string& from,
                       const DecoderOptions& options) {
  const Qwen3MoeConfig c(Keys(config, from, options.places), options);
  Decoder d;
  d.model_type = "qwen3_moe";
  d.model_file = "src/models/qwen3_moe.cpp";
  d.vocab = c.vocab, d.hidden = c.hidden, d.max_positions = c.max_positions;
  d.norm_eps = c.eps, d.initializer_range = c.initializer_range, d.tied = c.tied;
  d.begin(options.dtype);
  const ops::RotaryTable rotary =
      ops::rotary_table(c.max_positions, c.head_dim, c.rope, options.dtype);
  for (int i = 0; i < c.layers; ++i) {
    Layer layer;
    layer.name = "model.layers." + std::to_string(i);
    layer.dense = &d.add_unit("layers." + std::to_string(i) + ".dense", options.dtype);
    if (c.sparse(i))
      layer.experts = &d.add_unit("layers." + std::to_string(i) + ".experts", options.dtype);
    layer.block = std::make_unique<Qwen3MoeBlock>(
        c, i, rotary, Weights(layer.name + ".", *layer.dense, layer.experts));
    layer.facts = {.heads = c.heads,
                   .kv_heads = c.kv_heads,
                   .head_dim = c.head_dim,
                   .head_norms = true,
                   .attention_biases = c.biases};
    if (c.sparse(i))
      layer.facts.experts = c.experts, layer.facts.top_k = c.top_k, layer.facts.ffn = c.ffn;
    else
      layer.facts.dense_ffn = c.dense_ffn;
    d.layers.push_back(std::move(layer));
  }
  d.finish(options.dtype);
  return d;
}

}  // namespace conclave::models
