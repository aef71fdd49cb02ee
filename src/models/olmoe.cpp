// OLMoE: 1B-7B. Reference: transformers, models/olmoe. Differs from Qwen3-MoE by its norms: one
// over all query heads, one over all key heads.
#include "models/frame.h"
#include "nn/attention.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/router.h"

namespace conclave::models {
namespace {

using namespace nn;

class OlmoeBlock : public Block {
 public:
  OlmoeBlock(const Frame& c, int layer, const ops::RotaryTable& rotary, Weights w)
      : c_(c),
        layer_(layer),
        rotary_(rotary),
        input_norm_(w.add("input_layernorm.weight", {c.hidden})),
        q_(w.add("self_attn.q_proj.weight", {c.heads * c.head_dim, c.hidden})),
        k_(w.add("self_attn.k_proj.weight", {c.kv_heads * c.head_dim, c.hidden})),
        v_(w.add("self_attn.v_proj.weight", {c.kv_heads * c.head_dim, c.hidden})),
        o_(w.add("self_attn.o_proj.weight", {c.hidden, c.heads * c.head_dim})),
        q_norm_(w.add("self_attn.q_norm.weight", {c.heads * c.head_dim})),
        k_norm_(w.add("self_attn.k_norm.weight", {c.kv_heads * c.head_dim})),
        ffn_norm_(w.add("post_attention_layernorm.weight", {c.hidden})),
        router_(w.add("mlp.gate.weight", {c.experts, c.hidden})),
        gate_up_(w.add_experts("mlp.experts.{}.{gate_proj,up_proj}.weight",
                               {c.experts, 2 * c.ffn, c.hidden})),
        down_(w.add_experts("mlp.experts.{}.down_proj.weight", {c.experts, c.hidden, c.ffn})) {}

  Value mix(Tape& t, const Value& x, const Rows& rows) override {  // x [tokens, hidden]
    Value n = rms_norm(t, x, input_norm_, c_.eps);
    Value q = rms_norm(t, linear(t, n, q_, nullptr, "qkv"), q_norm_, c_.eps);
    Value k = rms_norm(t, linear(t, n, k_, nullptr, "qkv"), k_norm_, c_.eps);
    Value v = linear(t, n, v_, nullptr, "qkv");
    Value a =
        attention(t, rotary(t, q, c_.heads, rows, rotary_),
                  rotary(t, k, c_.kv_heads, rows, rotary_), v, rows, {.scale = c_.scale()}, layer_);
    return add(t, x, linear(t, a, o_));
  }
  Routed route(Tape& t, const Value& h, const Rows& rows) override {
    return nn::route(t, rms_norm(t, h, ffn_norm_, c_.eps), router_, rows, c_.router(layer_));
  }
  Value experts(Tape& t, const Received& r) override {
    return grouped_swiglu(t, r, {gate_up_, down_});
  }

 private:
  const Frame c_;
  const int layer_;
  const ops::RotaryTable rotary_;
  Weight &input_norm_, &q_, &k_, &v_, &o_, &q_norm_, &k_norm_, &ffn_norm_, &router_, &gate_up_,
      &down_;
};

}  // namespace

Decoder make_olmoe(const Keys& keys, const DecoderOptions& options) {
  const Frame c(keys, options,
                {.max_positions = 4096, .eps = 1e-5, .aux_coef = 0.01, .ffn = "intermediate_size"});
  if (c.biases) keys.refuse("attention_bias", "expected false; OLMoE's projections have none");
  if (keys.find({"clip_qkv"})) keys.refuse("clip_qkv", "expected null; clipping is not supported");
  const auto rotary = c.rotary(keys, c.head_dim, {.theta = 10000}, options.dtype);
  LayerFacts facts = c.facts();
  facts.whole_norms = true;
  return assemble(
      c, "olmoe", options.dtype, [&](int) { return facts; },
      [&](int i, Weights w) { return std::make_unique<OlmoeBlock>(c, i, rotary, w); });
}

}  // namespace conclave::models
