// DeepSeek-V3, Kimi-K2, Moonlight. Reference: transformers, models/deepseek_v3. Latent attention;
// dense layers first, then experts chosen by sigmoid scores within groups, beside shared ones.
#include "models/frame.h"
#include "models/rope.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "nn/mla.h"
#include "nn/norm.h"
#include "nn/router.h"

namespace conclave::models {
namespace {

using namespace nn;

constexpr double kLatentEps = 1e-6;  // of the latents' norms, whatever rms_norm_eps says

struct DeepseekV3Config : Frame {
  MlaFacts mla;
  double softmax_scale, weight_scale;
  int64_t dense_layers, dense_ffn, shared_ffn, groups, top_groups;

  DeepseekV3Config(const Keys& k, const DecoderOptions& options)
      : Frame(k, options,
              {.head_dim = 64,
               .max_positions = 4096,
               .aux_coef = 0,
               .renormalise = true,
               .experts = "n_routed_experts"}),
        mla{k.is_null("q_lora_rank") ? 0 : k.count({"q_lora_rank"}, 1536),
            k.count({"kv_lora_rank"}, 512), k.count({"qk_nope_head_dim"}, 128),
            k.count({"qk_rope_head_dim"}, 64), k.count({"v_head_dim"}, 128)},
        softmax_scale(attention_scale(read_rope(k, 10000), mla.nope + mla.rope)),
        weight_scale(k.number({"routed_scaling_factor"}, 2.5)),
        dense_layers(k.count({"first_k_dense_replace"}, 3, 0)),
        dense_ffn(k.count({"intermediate_size"}, 18432)),
        shared_ffn(ffn * k.count({"n_shared_experts"}, 1)),
        groups(k.count({"n_group"}, 8)),
        top_groups(k.count({"topk_group"}, 4)) {
    mtp_modules = k.count({"num_nextn_predict_layers"}, 0, 0);
    k.expect({{"num_key_value_heads", heads}, {"moe_layer_freq", 1}, {"seq_aux", true}});
    k.expect({{"scoring_func", "sigmoid"}, {"topk_method", "noaux_tc"}, {"rope_interleave", true}});
    check_groups(k, groups, top_groups);
  }
  LayerFacts facts(int layer) const {
    LayerFacts f = Frame::facts();
    f.mla = mla, f.kv_heads = f.head_dim = 0;
    if (layer < dense_layers)
      f.experts = f.top_k = f.ffn = 0, f.dense_ffn = dense_ffn;
    else
      f.correction_bias = true, f.shared_ffn = shared_ffn;
    return f;
  }
};

class DeepseekV3Block : public Block {
 public:
  DeepseekV3Block(const DeepseekV3Config& c, int layer, const ops::RotaryTable& rotary, Weights w);
  Value mix(Tape& t, const Value& x, const Rows& rows) override {  // x [tokens, hidden]
    Value n = rms_norm(t, x, input_norm_, c_.eps);
    Value q_in =
        q_a_ ? rms_norm(t, linear(t, n, *q_a_, q_a_bias_, "qkv"), *q_norm_, kLatentEps) : n;
    Value q = linear(t, q_in, *q_, nullptr, "qkv");  // [tokens, heads · (nope + rope)]
    auto [latent, k_rope] = split(t, linear(t, n, kv_a_, kv_a_bias_, "qkv"), c_.mla.kv_rank);
    Value a = nn::mla(t, q, rms_norm(t, latent, kv_norm_, kLatentEps), k_rope, kv_b_, rows, rotary_,
                      {c_.heads, c_.mla.nope, c_.mla.rope, c_.mla.v_dim, c_.softmax_scale}, layer_);
    return add(t, x, linear(t, a, o_, o_bias_));
  }
  bool has_experts() const override { return router_; }
  bool has_shared_expert() const override { return router_; }
  Routed route(Tape& t, const Value& h, const Rows& rows) override {
    RouterOptions o = c_.router(layer_);
    o.scoring = Scoring::sigmoid, o.scale = c_.weight_scale;
    o.groups = c_.groups, o.top_groups = c_.top_groups, o.correction_bias = correction_bias_;
    return nn::route(t, rms_norm(t, h, ffn_norm_, c_.eps), *router_, rows, o);
  }
  Value experts(Tape& t, const Received& r) override {
    return grouped_swiglu(t, r, {*gate_up_, *down_});
  }
  Value shared(Tape& t, const Value& x) override {
    return dense_swiglu(t, x, *shared_gate_up_, *shared_down_);
  }
  Value feed_forward(Tape& t, const Value& h) override {
    return add(t, h, dense_swiglu(t, rms_norm(t, h, ffn_norm_, c_.eps), *gate_up_, *down_));
  }
  Weight* correction_bias() override { return correction_bias_; }

 private:
  const DeepseekV3Config c_;
  const int layer_;
  const ops::RotaryTable rotary_;
  Weight &input_norm_, &kv_a_, &kv_norm_, &kv_b_, &o_, &ffn_norm_;
  Weight *q_a_ = nullptr, *q_a_bias_ = nullptr, *q_norm_ = nullptr, *q_, *kv_a_bias_, *o_bias_;
  Weight *router_ = nullptr, *correction_bias_ = nullptr, *gate_up_, *down_;
  Weight *shared_gate_up_, *shared_down_;
};

DeepseekV3Block::DeepseekV3Block(const DeepseekV3Config& c, int layer,
                                 const ops::RotaryTable& rotary, Weights w)
    : c_(c),
      layer_(layer),
      rotary_(rotary),
      input_norm_(w.add("input_layernorm.weight", {c.hidden})),
      kv_a_(w.add("self_attn.kv_a_proj_with_mqa.weight", {c.mla.kv_rank + c.mla.rope, c.hidden})),
      kv_norm_(w.add("self_attn.kv_a_layernorm.weight", {c.mla.kv_rank})),
      kv_b_(w.add("self_attn.kv_b_proj.weight",
                  {c.heads * (c.mla.nope + c.mla.v_dim), c.mla.kv_rank})),
      o_(w.add("self_attn.o_proj.weight", {c.hidden, c.heads * c.mla.v_dim})),
      ffn_norm_(w.add("post_attention_layernorm.weight", {c.hidden})),
      kv_a_bias_(c.bias(w, "self_attn.kv_a_proj_with_mqa.bias", c.mla.kv_rank + c.mla.rope)),
      o_bias_(c.bias(w, "self_attn.o_proj.bias", c.hidden)) {
  const int64_t q_width = c.heads * (c.mla.nope + c.mla.rope), rank = c.mla.q_rank;
  if (rank > 0) {
    q_a_ = &w.add("self_attn.q_a_proj.weight", {rank, c.hidden});
    q_a_bias_ = c.bias(w, "self_attn.q_a_proj.bias", rank);
    q_norm_ = &w.add("self_attn.q_a_layernorm.weight", {rank});
  }
  q_ = rank > 0 ? &w.add("self_attn.q_b_proj.weight", {q_width, rank})
                : &w.add("self_attn.q_proj.weight", {q_width, c.hidden});
  if (layer < c.dense_layers) {
    gate_up_ = &w.add_stack("mlp.{gate_proj,up_proj}.weight", {2 * c.dense_ffn, c.hidden});
    down_ = &w.add("mlp.down_proj.weight", {c.hidden, c.dense_ffn});
    return;
  }
  router_ = &w.add("mlp.gate.weight", {c.experts, c.hidden});
  correction_bias_ = &w.add_buffer("mlp.gate.e_score_correction_bias", {c.experts});
  gate_up_ =
      &w.add_experts("mlp.experts.{}.{gate_proj,up_proj}.weight", {c.experts, 2 * c.ffn, c.hidden});
  down_ = &w.add_experts("mlp.experts.{}.down_proj.weight", {c.experts, c.hidden, c.ffn});
  shared_gate_up_ =
      &w.add_stack("mlp.shared_experts.{gate_proj,up_proj}.weight", {2 * c.shared_ffn, c.hidden});
  shared_down_ = &w.add("mlp.shared_experts.down_proj.weight", {c.hidden, c.shared_ffn});
}

}  // namespace

Decoder make_deepseek_v3(const Keys& keys, const DecoderOptions& options) {
  const DeepseekV3Config c(keys, options);
  const auto rotary = c.rotary(keys, c.mla.rope, {.theta = 10000}, options.dtype);
  return assemble(
      c, "deepseek_v3", options.dtype, [&](int i) { return c.facts(i); },
      [&](int i, Weights w) { return std::make_unique<DeepseekV3Block>(c, i, rotary, w); });
}

}  // namespace conclave::models
