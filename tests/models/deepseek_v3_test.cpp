// What a config.json of DeepSeek-V3, Kimi-K2 or Moonlight may say, and the checkpoint's names and
// shapes that follow.
#include <cmath>

#include "models/config_testing.h"

namespace conclave::models {
namespace {
using namespace testing;

nlohmann::json config() {  // as published, but small
  return {{"architectures", {"DeepseekV3ForCausalLM"}},
          {"model_type", "kimi_k2"},
          {"aux_loss_alpha", 0.001},
          {"ep_size", 1},
          {"first_k_dense_replace", 1},
          {"hidden_act", "silu"},
          {"hidden_size", 12},
          {"intermediate_size", 20},
          {"kv_lora_rank", 6},
          {"max_position_embeddings", 64},
          {"moe_intermediate_size", 7},
          {"moe_layer_freq", 1},
          {"n_group", 2},
          {"n_routed_experts", 4},
          {"n_shared_experts", 2},
          {"norm_topk_prob", true},
          {"num_attention_heads", 3},
          {"num_experts_per_tok", 2},
          {"num_hidden_layers", 2},
          {"num_key_value_heads", 3},
          {"num_nextn_predict_layers", 1},
          {"q_lora_rank", 8},
          {"qk_nope_head_dim", 4},
          {"qk_rope_head_dim", 2},
          {"rms_norm_eps", 1e-5},
          {"rope_scaling",
           {{"beta_fast", 32},
            {"beta_slow", 1},
            {"factor", 40},
            {"mscale", 1.0},
            {"mscale_all_dim", 1.0},
            {"original_max_position_embeddings", 16},
            {"type", "yarn"}}},
          {"rope_theta", 10000},
          {"routed_scaling_factor", 2.5},
          {"scoring_func", "sigmoid"},
          {"seq_aux", true},
          {"tie_word_embeddings", false},
          {"topk_group", 1},
          {"topk_method", "noaux_tc"},
          {"v_head_dim", 5},
          {"vocab_size", 29}};
}

void add_attention(std::map<std::string, Shape>& want, const std::string& layer) {
  want[layer + "input_layernorm.weight"] = want[layer + "post_attention_layernorm.weight"] = {12};
  want[layer + "self_attn.q_a_proj.weight"] = {8, 12};
  want[layer + "self_attn.q_a_layernorm.weight"] = {8};
  want[layer + "self_attn.q_b_proj.weight"] = {18, 8};
  want[layer + "self_attn.kv_a_proj_with_mqa.weight"] = {8, 12};
  want[layer + "self_attn.kv_a_layernorm.weight"] = {6};
  want[layer + "self_attn.kv_b_proj.weight"] = {27, 6};
  want[layer + "self_attn.o_proj.weight"] = {12, 15};
}

void add_mlp(std::map<std::string, Shape>& want, const std::string& prefix, int64_t ffn) {
  want[prefix + "gate_proj.weight"] = want[prefix + "up_proj.weight"] = {ffn, 12};
  want[prefix + "down_proj.weight"] = {12, ffn};
}

void add_experts(std::map<std::string, Shape>& want, const std::string& layer) {
  want[layer + "mlp.gate.weight"] = {4, 12};
  want[layer + "mlp.gate.e_score_correction_bias"] = {4};
  add_mlp(want, layer + "mlp.shared_experts.", 14);
  for (const std::string e : {"0", "1", "2", "3"})
    add_mlp(want, layer + "mlp.experts." + e + ".", 7);
}

std::map<std::string, Shape> without_modules() {
  std::map<std::string, Shape> want = {{"model.embed_tokens.weight", {29, 12}},
                                       {"model.norm.weight", {12}},
                                       {"lm_head.weight", {29, 12}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) add_attention(want, layer);
  add_mlp(want, "model.layers.0.mlp.", 20);
  add_experts(want, "model.layers.1.");
  return want;
}

TEST(DeepseekV3, NamesAndShapesAreTheCheckpoints) {
  const nn::Decoder d = make_decoder(config(), "config.json", {});
  EXPECT_EQ(pieces(d), without_modules());
  EXPECT_TRUE(d.mtp.empty());
  EXPECT_EQ(d.beside, std::vector<std::string>{"model.layers.2.*"});  // read past
}

TEST(DeepseekV3, AModuleOfMultiTokenPredictionIsALayerAfterTheLast) {
  const nn::Decoder d = make_decoder(config(), "config.json", {.mtp = true});
  std::map<std::string, Shape> want = without_modules();
  const std::string layer = "model.layers.2.";
  add_attention(want, layer);
  add_experts(want, layer);
  want[layer + "enorm.weight"] = want[layer + "hnorm.weight"] = {12};
  want[layer + "eh_proj.weight"] = {12, 24};
  want[layer + "shared_head.norm.weight"] = {12};
  EXPECT_EQ(pieces(d), want);
  ASSERT_EQ(d.copies.size(), 2u);
  EXPECT_EQ(d.copies[0].first, layer + "embed_tokens.weight");
  EXPECT_EQ(d.copies[0].second, d.embedding);
  EXPECT_EQ(d.copies[1].first, layer + "shared_head.head.weight");
  EXPECT_EQ(d.copies[1].second, d.head);
  EXPECT_EQ(&d.layer(2), &d.mtp[0].layer);
}

TEST(DeepseekV3, QueriesStraightFromTheHiddenStates) {
  auto c = changed(config(), "q_lora_rank", nullptr);  // Moonlight
  const auto held = pieces(make_decoder(c, "config.json", {}));
  EXPECT_EQ(held.at("model.layers.0.self_attn.q_proj.weight"), (Shape{18, 12}));
  EXPECT_FALSE(held.count("model.layers.0.self_attn.q_a_proj.weight"));
  EXPECT_FALSE(held.count("model.layers.0.self_attn.q_a_layernorm.weight"));
  c.erase("q_lora_rank");  // transformers' config class takes 1536 then
  EXPECT_EQ(
      pieces(make_decoder(c, "config.json", {})).at("model.layers.0.self_attn.q_a_proj.weight"),
      (Shape{1536, 12}));
}

TEST(DeepseekV3, AttentionBiases) {
  const auto held = pieces(make_decoder(changed(config(), "attention_bias", true), "x", {}));
  EXPECT_EQ(held.at("model.layers.1.self_attn.q_a_proj.bias"), (Shape{8}));
  EXPECT_EQ(held.at("model.layers.1.self_attn.kv_a_proj_with_mqa.bias"), (Shape{8}));
  EXPECT_EQ(held.at("model.layers.1.self_attn.o_proj.bias"), (Shape{12}));
  EXPECT_EQ(held.size(), pieces(make_decoder(config(), "x", {})).size() + 6);
}

TEST(DeepseekV3, TheCorrectionBiasIsNotTrainedAndNeverNarrow) {
  const nn::Decoder d = make_decoder(config(), "config.json", {.dtype = at::kBFloat16});
  EXPECT_FALSE(d.layers[0].block->correction_bias());
  nn::Weight* bias = d.layers[1].block->correction_bias();
  ASSERT_TRUE(bias);
  EXPECT_EQ(bias->name(), "model.layers.1.mlp.gate.e_score_correction_bias");
  for (const auto& unit : d.units) {
    EXPECT_EQ(unit->trained(), unit.get() != d.layers[1].router) << unit->name();
    EXPECT_EQ(unit->dtype(), unit->trained() ? at::kBFloat16 : at::kFloat);
  }
}

TEST(DeepseekV3, BothSpellingsOfConfigJson) {
  auto five = config();
  five["rope_parameters"] = five["rope_scaling"];
  five["rope_parameters"]["rope_type"] = "yarn";
  five["rope_parameters"].erase("type");
  five["rope_parameters"]["rope_theta"] = 10000;
  five["num_local_experts"] = five["n_routed_experts"];
  for (const char* key : {"rope_scaling", "rope_theta", "n_routed_experts"}) five.erase(key);
  EXPECT_EQ(pieces(make_decoder(five, "x", {})), pieces(make_decoder(config(), "x", {})));
}

TEST(DeepseekV3, RefusesWhatItDoesNotCompute) {
  for (const auto& [key, value] : std::map<std::string, nlohmann::json>{{"scoring_func", "softmax"},
                                                                        {"topk_method", "greedy"},
                                                                        {"moe_layer_freq", 2},
                                                                        {"seq_aux", false},
                                                                        {"rope_interleave", false},
                                                                        {"num_key_value_heads", 1},
                                                                        {"qk_rope_head_dim", 3},
                                                                        {"hidden_act", "gelu"},
                                                                        {"kv_lora_rank", 0}})
    expect_refused(changed(config(), key, value), {"some/config.json"});
  expect_refused(changed(config(), "scoring_func", "softmax"),
                 {"`scoring_func`", "expected \"sigmoid\", got \"softmax\""});
  expect_refused(changed(config(), "n_group", 3), {"`n_group`", "equal groups"});
  expect_refused(changed(config(), "n_group", 4), {"`n_group`", "at least 2"});
  expect_refused(changed(config(), "topk_group", 3), {"`topk_group`", "n_group = 2"});
  expect_refused(changed(config(), "num_experts_per_tok", 3),
                 {"`num_experts_per_tok`", "the 2 experts"});
}

TEST(DeepseekV3, FactsForForecasts) {
  const nn::Decoder d = make_decoder(config(), "config.json", {});
  const nn::LayerFacts &dense = d.layers[0].facts, &sparse = d.layers[1].facts;
  EXPECT_EQ(dense.dense_ffn, 20);
  EXPECT_EQ(dense.experts, 0);
  EXPECT_FALSE(dense.correction_bias);
  EXPECT_EQ(sparse.experts, 4);
  EXPECT_EQ(sparse.shared_ffn, 14);
  EXPECT_TRUE(sparse.correction_bias);
  EXPECT_EQ(sparse.mla.q_rank, 8);
  EXPECT_EQ(sparse.mla.kv_rank, 6);
  EXPECT_EQ(sparse.mla.nope + sparse.mla.rope, 6);
}

}  // namespace
}  // namespace conclave::models
