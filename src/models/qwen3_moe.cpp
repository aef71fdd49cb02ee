// Qwen3-MoE: 30B-A3B, 235B-A22B. Reference: transformers, models/qwen3_moe. Differs from Mixtral by
// q/k norms and by weights that are renormalised or not (norm_topk_prob).
#include <algorithm>
#include <tuple>

#include "models/frame.h"
#include "nn/attention.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/router.h"

namespace conclave::models {
namespace {

using namespace nn;

struct Qwen3MoeConfig : Frame {
  int64_t dense_ffn, sparse_step;
  std::vector<int64_t> dense_layers;

  Qwen3MoeConfig(const Keys& k, const DecoderOptions& options);
  bool sparse(int64_t layer) const {
    return std::find(dense_layers.begin(), dense_layers.end(), layer) == dense_layers.end() &&
           (layer + 1) % sparse_step == 0;
  }
  LayerFacts facts(int layer) const;
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
  Value feed_forward(Tape& t, const Value& h) override;

 private:
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
      q_bias_(c.bias(w, "self_attn.q_proj.bias", c.heads * c.head_dim)),
      k_bias_(c.bias(w, "self_attn.k_proj.bias", c.kv_heads * c.head_dim)),
      v_bias_(c.bias(w, "self_attn.v_proj.bias", c.kv_heads * c.head_dim)),
      o_bias_(c.bias(w, "self_attn.o_proj.bias", c.hidden)) {
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
  Value q = linear(t, n, q_, q_bias_, "qkv"), k = linear(t, n, k_, k_bias_, "qkv");
  std::tie(q, k) = head_norm_rotary(t, q, k, q_norm_, k_norm_, c_.eps, rows, rotary_);
  // q [tokens, heads, head_dim], k [tokens, kv_heads, head_dim]
  Value v = linear(t, n, v_, v_bias_, "qkv");
  Value a = attention(t, q, k, v, rows, {.scale = c_.scale()}, layer_);
  return add(t, x, linear(t, a, o_, o_bias_));
}

Routed Qwen3MoeBlock::route(Tape& t, const Value& h, const Rows& rows) {
  return nn::route(t, rms_norm(t, h, ffn_norm_, c_.eps), *router_, rows, c_.router(layer_));
}

Value Qwen3MoeBlock::feed_forward(Tape& t, const Value& h) {
  return add(t, h, dense_swiglu(t, rms_norm(t, h, ffn_norm_, c_.eps), *gate_up_, *down_));
}

Qwen3MoeConfig::Qwen3MoeConfig(const Keys& k, const DecoderOptions& options)
    : Frame(k, options, {}),
      dense_ffn(k.count({"intermediate_size"}, 6144)),
      sparse_step(k.count({"decoder_sparse_step"}, 1)),
      dense_layers(k.indices("mlp_only_layers")) {
  if (k.flag("use_sliding_window", false))
    k.refuse("use_sliding_window",
             "expected false; windows are not supported for this architecture");
}

LayerFacts Qwen3MoeConfig::facts(int layer) const {
  LayerFacts f = Frame::facts();
  f.head_norms = true;
  if (!sparse(layer)) f.experts = f.top_k = f.ffn = 0, f.dense_ffn = dense_ffn;
  return f;
}

}  // namespace

Decoder make_qwen3_moe(const Keys& keys, const DecoderOptions& options) {
  const Qwen3MoeConfig c(keys, options);
  const auto rotary = c.rotary(keys, c.head_dim, {.theta = 10000}, options.dtype);
  return assemble(
      c, "qwen3_moe", options.dtype, [&](int i) { return c.facts(i); },
      [&](int i, Weights w) { return std::make_unique<Qwen3MoeBlock>(c, i, rotary, w); });
}

}  // namespace conclave::models
