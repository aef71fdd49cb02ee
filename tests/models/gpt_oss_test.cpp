// What a config.json of GPT-OSS may say, and the checkpoint's names and shapes that follow.
#include "models/config_testing.h"

namespace conclave::models {
namespace {
using namespace testing;

nlohmann::json config() {  // as published, but small
  return {{"architectures", {"GptOssForCausalLM"}},
          {"attention_bias", true},
          {"experts_per_token", 2},
          {"head_dim", 6},
          {"hidden_size", 12},
          {"initial_context_length", 16},
          {"intermediate_size", 10},
          {"num_attention_heads", 4},
          {"num_experts_per_tok", 2},
          {"num_hidden_layers", 2},
          {"num_key_value_heads", 2},
          {"num_local_experts", 3},
          {"max_position_embeddings", 64},
          {"rope_scaling",
           {{"beta_fast", 32.0},
            {"beta_slow", 1.0},
            {"factor", 4.0},
            {"original_max_position_embeddings", 16},
            {"rope_type", "yarn"},
            {"truncate", false}}},
          {"rope_theta", 150000},
          {"sliding_window", 5},
          {"swiglu_limit", 7.0},
          {"vocab_size", 29}};
}

std::vector<int64_t> windows(const nlohmann::json& c) {
  std::vector<int64_t> out;
  for (const auto& layer : make_decoder(c, "config.json", {}).layers)
    out.push_back(layer.facts.window);
  return out;
}

TEST(GptOss, NamesAndShapesAreTheCheckpoints) {
  std::map<std::string, Shape> want = {{"model.embed_tokens.weight", {29, 12}},
                                       {"model.norm.weight", {12}},
                                       {"lm_head.weight", {29, 12}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    want[layer + "input_layernorm.weight"] = want[layer + "post_attention_layernorm.weight"] = {12};
    want[layer + "self_attn.q_proj.weight"] = {24, 12};
    want[layer + "self_attn.q_proj.bias"] = {24};
    for (const std::string part : {"k", "v"}) {
      want[layer + "self_attn." + part + "_proj.weight"] = {12, 12};
      want[layer + "self_attn." + part + "_proj.bias"] = {12};
    }
    want[layer + "self_attn.o_proj.weight"] = {12, 24};
    want[layer + "self_attn.o_proj.bias"] = {12};
    want[layer + "self_attn.sinks"] = {4};
    want[layer + "mlp.router.weight"] = {3, 12};
    want[layer + "mlp.router.bias"] = {3};
    want[layer + "mlp.experts.gate_up_proj"] = {3, 20, 12};  // as in memory: the file's, transposed
    want[layer + "mlp.experts.gate_up_proj_bias"] = {3, 20};
    want[layer + "mlp.experts.down_proj"] = {3, 12, 10};
    want[layer + "mlp.experts.down_proj_bias"] = {3, 12};
  }
  EXPECT_EQ(pieces(make_decoder(config(), "config.json", {})), want);
}

TEST(GptOss, DecayIsOnMatricesOnlyAlsoAmongTheExperts) {
  for (const auto& unit : make_decoder(config(), "config.json", {}).units)
    for (const auto& w : unit->weights()) {
      const bool bias = w->name().find("bias") != std::string::npos;
      EXPECT_EQ(w->decay(), w->shape().size() > 1 && !bias) << w->name();
      if (bias) {
        EXPECT_EQ(w->init(), nn::Init::zeros) << w->name();
      }
      if (w->name().ends_with("sinks")) {
        EXPECT_EQ(w->init(), nn::Init::normal);
      }
    }
}

TEST(GptOss, WindowsAlternateOrAreListed) {
  EXPECT_EQ(windows(changed(config(), "num_hidden_layers", 4)),
            (std::vector<int64_t>{5, 0, 5, 0}));  // the first one slides
  EXPECT_EQ(windows(changed(config(), "layer_types", {"full_attention", "sliding_attention"})),
            (std::vector<int64_t>{0, 5}));
  expect_refused(changed(config(), "layer_types", {"full_attention"}),
                 {"`layer_types`", "each of 2 layers"});
  expect_refused(changed(config(), "layer_types", {"full_attention", "chunked_attention"}),
                 {"`layer_types`", "chunked_attention"});
}

TEST(GptOss, RefusesWhatItDoesNotCompute) {
  expect_refused(changed(config(), "swiglu_limit", 5.0), {"`swiglu_limit`", "expected 7"});
  expect_refused(changed(config(), "norm_topk_prob", false), {"`norm_topk_prob`"});
  expect_refused(changed(config(), "num_experts_per_tok", 4), {"`num_experts_per_tok`"});
  expect_refused(changed(config(), "attention_dropout", 0.1), {"`attention_dropout`"});
}

TEST(GptOss, FactsForForecasts) {
  const nn::LayerFacts f = make_decoder(config(), "config.json", {}).layers[0].facts;
  EXPECT_EQ(f.experts, 3);
  EXPECT_EQ(f.ffn, 10);
  EXPECT_TRUE(f.sinks && f.router_bias && f.expert_biases && f.attention_biases);
  EXPECT_FALSE(f.head_norms || f.whole_norms || f.correction_bias);
}

}  // namespace
}  // namespace conclave::models
