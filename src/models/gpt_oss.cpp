// GPT-OSS: 20B, 120B. Reference: transformers, models/gpt_oss. Sinks, layers that alternate between
// a sliding window and all keys, YaRN with an untruncated range, biases everywhere, clamped SwiGLU.
#include "models/frame.h"
#include "nn/attention.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/router.h"

namespace conclave::models {
namespace {

using namespace nn;

struct GptOssConfig : Frame {
  std::vector<int64_t> windows;  // of each layer; 0: all keys

  GptOssConfig(const Keys& k, const DecoderOptions& options);
  LayerFacts facts(int layer) const;
};

class GptOssBlock : public Block {
 public:
  GptOssBlock(const GptOssConfig& c, int layer, const ops::RotaryTable& rotary, Weights w);
  Value mix(Tape& t, const Value& x, const Rows& rows) override;
  Routed route(Tape& t, const Value& h, const Rows& rows) override;
  Value experts(Tape& t, const Received& r) override {
    return grouped_swiglu(
        t, r, {gate_up_, down_, &gate_up_bias_, &down_bias_, ops::Activation::clamped_swiglu});
  }

 private:
  const GptOssConfig c_;
  const int layer_;
  const ops::RotaryTable rotary_;
  Weight &input_norm_, &q_, &k_, &v_, &o_, &sinks_, &ffn_norm_, &router_, &router_bias_;
  Weight *q_bias_, *k_bias_, *v_bias_, *o_bias_;
  Weight &gate_up_, &gate_up_bias_, &down_, &down_bias_;
};

// The file holds gate_up_proj as [experts, hidden, 2 · ffn] and down_proj as [experts, ffn,
// hidden].
GptOssBlock::GptOssBlock(const GptOssConfig& c, int layer, const ops::RotaryTable& rotary,
                         Weights w)
    : c_(c),
      layer_(layer),
      rotary_(rotary),
      input_norm_(w.add("input_layernorm.weight", {c.hidden})),
      q_(w.add("self_attn.q_proj.weight", {c.heads * c.head_dim, c.hidden})),
      k_(w.add("self_attn.k_proj.weight", {c.kv_heads * c.head_dim, c.hidden})),
      v_(w.add("self_attn.v_proj.weight", {c.kv_heads * c.head_dim, c.hidden})),
      o_(w.add("self_attn.o_proj.weight", {c.hidden, c.heads * c.head_dim})),
      sinks_(w.add("self_attn.sinks", {c.heads}, Init::normal)),
      ffn_norm_(w.add("post_attention_layernorm.weight", {c.hidden})),
      router_(w.add("mlp.router.weight", {c.experts, c.hidden})),
      router_bias_(w.add("mlp.router.bias", {c.experts})),
      q_bias_(c.bias(w, "self_attn.q_proj.bias", c.heads * c.head_dim)),
      k_bias_(c.bias(w, "self_attn.k_proj.bias", c.kv_heads * c.head_dim)),
      v_bias_(c.bias(w, "self_attn.v_proj.bias", c.kv_heads * c.head_dim)),
      o_bias_(c.bias(w, "self_attn.o_proj.bias", c.hidden)),
      gate_up_(w.add_fused_experts("mlp.experts.gate_up_proj", {c.experts, 2 * c.ffn, c.hidden},
                                   /*transposed=*/true)),
      gate_up_bias_(
          w.add_fused_experts("mlp.experts.gate_up_proj_bias", {c.experts, 2 * c.ffn}, false)),
      down_(w.add_fused_experts("mlp.experts.down_proj", {c.experts, c.hidden, c.ffn},
                                /*transposed=*/true)),
      down_bias_(w.add_fused_experts("mlp.experts.down_proj_bias", {c.experts, c.hidden}, false)) {}

Value GptOssBlock::mix(Tape& t, const Value& x, const Rows& rows) {  // x [tokens, hidden]
  Value n = rms_norm(t, x, input_norm_, c_.eps);
  Value q = rotary(t, linear(t, n, q_, q_bias_, "qkv"), c_.heads, rows,
                   rotary_);  // [tokens, heads, head_dim]
  Value k = rotary(t, linear(t, n, k_, k_bias_, "qkv"), c_.kv_heads, rows,
                   rotary_);  // [tokens, kv_heads, head_dim]
  Value v = linear(t, n, v_, v_bias_, "qkv");
  Value a =
      attention(t, q, k, v, rows,
                {.scale = c_.scale(), .window = c_.windows[layer_], .sinks = &sinks_}, layer_);
  return add(t, x, linear(t, a, o_, o_bias_));
}

Routed GptOssBlock::route(Tape& t, const Value& h, const Rows& rows) {
  RouterOptions options = c_.router(layer_);
  options.scoring = Scoring::top_k_then_softmax, options.bias = &router_bias_;
  return nn::route(t, rms_norm(t, h, ffn_norm_, c_.eps), router_, rows, options);
}

GptOssConfig::GptOssConfig(const Keys& k, const DecoderOptions& options)
    : Frame(k, options,
            {.kv_heads = 8,
             .head_dim = 64,
             .max_positions = 131072,
             .eps = 1e-5,
             .biases = true,
             .renormalise = true,
             .experts = "num_local_experts",
             .ffn = "intermediate_size"}) {
  const int64_t window = k.count({"sliding_window"}, 128);
  for (int i = 0; i < layers; ++i) windows.push_back(i % 2 == 0 ? window : 0);
  if (const auto types = k.texts("layer_types"); !types.empty()) {
    if (static_cast<int64_t>(types.size()) != layers)
      k.refuse("layer_types", "expected one for each of " + std::to_string(layers) + " layers");
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] != "sliding_attention" && types[i] != "full_attention")
        k.refuse("layer_types", "expected sliding_attention or full_attention, got " + types[i]);
      windows[i] = types[i] == "sliding_attention" ? window : 0;
    }
  }
  if (k.number({"swiglu_limit"}, 7) != 7) k.refuse("swiglu_limit", "expected 7");
  if (!renormalise) k.refuse("norm_topk_prob", "expected true: softmax over the chosen");
}

LayerFacts GptOssConfig::facts(int layer) const {
  LayerFacts f = Frame::facts();
  f.window = windows[layer], f.sinks = f.router_bias = f.expert_biases = true;
  return f;
}

}  // namespace

Decoder make_gpt_oss(const Keys& keys, const DecoderOptions& options) {
  const GptOssConfig c(keys, options);
  const ops::RopeConfig otherwise{
      .theta = 150000, .yarn = true, .factor = 32, .original_positions = 4096, .truncate = false};
  const auto rotary = c.rotary(keys, c.head_dim, otherwise, options.dtype);
  return assemble(
      c, "gpt_oss", options.dtype, [&](int i) { return c.facts(i); },
      [&](int i, Weights w) { return std::make_unique<GptOssBlock>(c, i, rotary, w); });
}

}  // namespace conclave::models
