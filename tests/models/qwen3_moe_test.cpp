// What a config.json of Qwen3-MoE may say, and the checkpoint's names and shapes that follow.
#include "models/config_testing.h"

namespace conclave::models {
namespace {

using namespace testing;

nlohmann::json config() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"hidden_size", 12},
          {"num_hidden_layers", 2},
          {"vocab_size", 29},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"intermediate_size", 20},
          {"num_experts", 3},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 10},
          {"mlp_only_layers", {0}},
          {"max_position_embeddings", 16}};
}

nlohmann::json with(const std::string& key, nlohmann::json value) {
  return changed(config(), key, std::move(value));
}

TEST(Qwen3Moe, NamesAndShapesAreTheCheckpoints) {
  std::map<std::string, Shape> want = {{"model.embed_tokens.weight", {29, 12}},
                                       {"model.norm.weight", {12}},
                                       {"lm_head.weight", {29, 12}},
                                       {"model.layers.0.mlp.gate_proj.weight", {20, 12}},
                                       {"model.layers.0.mlp.up_proj.weight", {20, 12}},
                                       {"model.layers.0.mlp.down_proj.weight", {12, 20}},
                                       {"model.layers.1.mlp.gate.weight", {3, 12}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    want[layer + "input_layernorm.weight"] = {12};
    want[layer + "post_attention_layernorm.weight"] = {12};
    want[layer + "self_attn.q_proj.weight"] = {24, 12};
    want[layer + "self_attn.k_proj.weight"] = {12, 12};
    want[layer + "self_attn.v_proj.weight"] = {12, 12};
    want[layer + "self_attn.o_proj.weight"] = {12, 24};
    want[layer + "self_attn.q_norm.weight"] = {6};
    want[layer + "self_attn.k_norm.weight"] = {6};
  }
  for (int e = 0; e < 3; ++e) {
    const std::string expert = "model.layers.1.mlp.experts." + std::to_string(e) + ".";
    want[expert + "gate_proj.weight"] = {10, 12};
    want[expert + "up_proj.weight"] = {10, 12};
    want[expert + "down_proj.weight"] = {12, 10};
  }
  EXPECT_EQ(pieces(make_decoder(config(), "config.json", {})), want);

  want.erase("lm_head.weight");
  EXPECT_EQ(pieces(make_decoder(with("tie_word_embeddings", true), "config.json", {})), want);
}

TEST(Qwen3Moe, BiasesOfTheAttention) {
  const auto got = pieces(make_decoder(with("attention_bias", true), "config.json", {}));
  EXPECT_EQ(got.at("model.layers.1.self_attn.q_proj.bias"), Shape{24});
  EXPECT_EQ(got.at("model.layers.1.self_attn.k_proj.bias"), Shape{12});
  EXPECT_EQ(got.at("model.layers.1.self_attn.v_proj.bias"), Shape{12});
  EXPECT_EQ(got.at("model.layers.1.self_attn.o_proj.bias"), Shape{12});
}

TEST(Qwen3Moe, DenseLayersByListAndByStep) {
  auto c = config();
  c["num_hidden_layers"] = 4;
  c["mlp_only_layers"] = {1};
  c["decoder_sparse_step"] = 2;
  const nn::Decoder d = make_decoder(c, "config.json", {});
  std::vector<bool> experts;
  for (const auto& layer : d.layers) experts.push_back(layer.block->has_experts());
  EXPECT_EQ(experts, (std::vector<bool>{false, false, false, true}));
  EXPECT_EQ(d.layers[3].facts.experts, 3);
  EXPECT_EQ(d.layers[0].facts.dense_ffn, 20);
  EXPECT_EQ(d.layers[0].experts, nullptr);
}

TEST(Qwen3Moe, BothSpellingsOfTheExperts) {
  auto c = config();
  c.erase("num_experts");
  c["num_local_experts"] = 3;
  EXPECT_EQ(pieces(make_decoder(c, "config.json", {})),
            pieces(make_decoder(config(), "config.json", {})));
}

TEST(Qwen3Moe, BothSpellingsOfTheRotaryBase) {
  EXPECT_NO_THROW(make_decoder(with("rope_theta", 1e6), "config.json", {}));
  EXPECT_NO_THROW(make_decoder(
      with("rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}), "c", {}));
  EXPECT_NO_THROW(make_decoder(with("rope_scaling", nullptr), "config.json", {}));
  expect_refused(with("rope_theta", -1), {"some/config.json", "`rope_theta`"});
  expect_refused(with("rope_parameters", {{"rope_theta", -1.0}}),
                 {"`rope_parameters.rope_theta`", "above 0"});
}

TEST(Qwen3Moe, ScaledRotaryEmbeddings) {
  EXPECT_NO_THROW(
      make_decoder(with("rope_scaling",
                        {{"type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 8}}),
                   "config.json", {}));
  expect_refused(with("rope_scaling", {{"type", "linear"}, {"factor", 2}}),
                 {"some/config.json: `rope_scaling.type`", "default or yarn, got \"linear\""});
}

TEST(Qwen3Moe, RefusesMissingKeys) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                          "num_experts_per_tok", "moe_intermediate_size"}) {
    auto c = config();
    c.erase(key);
    expect_refused(c, {"some/config.json: `" + std::string(key) + "`: missing"});
  }
  auto c = config();
  c.erase("num_experts");
  expect_refused(c, {"experts`: missing"});
}

TEST(Qwen3Moe, RefusesValuesOfTheWrongTypeOrSize) {
  expect_refused(with("hidden_size", "big"), {"`hidden_size`", "got \"big\""});
  expect_refused(with("hidden_size", 0), {"`hidden_size`", "at least 1, got 0"});
  expect_refused(with("rms_norm_eps", true), {"`rms_norm_eps`", "got true"});
  expect_refused(with("norm_topk_prob", 1), {"`norm_topk_prob`", "true or false"});
  expect_refused(with("mlp_only_layers", 0), {"`mlp_only_layers`", "list"});
  expect_refused(with("num_experts_per_tok", 4), {"`num_experts_per_tok`", "num_experts = 3"});
  expect_refused(with("num_key_value_heads", 3), {"`num_key_value_heads`", "divisor"});
  expect_refused(with("head_dim", 5), {"`head_dim`", "even"});
  expect_refused(with("hidden_act", "gelu"), {"`hidden_act`", "silu"});
  expect_refused(with("use_sliding_window", true), {"`use_sliding_window`"});
  expect_refused(with("attention_dropout", 0.1), {"`attention_dropout`"});
}

TEST(Qwen3Moe, ThePaddingTokenCountsFromTheEndWhereItIsNegative) {
  EXPECT_EQ(make_decoder(config(), "config.json", {}).padding, -1);
  EXPECT_EQ(make_decoder(with("pad_token_id", nullptr), "config.json", {}).padding, -1);
  EXPECT_EQ(make_decoder(with("pad_token_id", 0), "config.json", {}).padding, 0);
  EXPECT_EQ(make_decoder(with("pad_token_id", -1), "config.json", {}).padding, 28);
  expect_refused(with("pad_token_id", 29), {"`pad_token_id`", "vocab_size = 29, got 29"});
  expect_refused(with("pad_token_id", "x"), {"`pad_token_id`"});
}

TEST(Qwen3Moe, AnInlineConfigsUnknownKeyIsRefusedAtItsPlace) {
  DecoderOptions options;
  const auto known = config();
  for (const auto& [key, value] : known.items()) options.places[key] = "run.yaml:1:1";
  EXPECT_NO_THROW(make_decoder(config(), "run.yaml", options));
  options.places["num_expert_per_tok"] = "run.yaml:7:3";
  expect_refused(with("num_expert_per_tok", 2),
                 {"run.yaml:7:3: ", "`num_expert_per_tok`", "did you mean `num_experts_per_tok`?"},
                 options);
  // A config.json may hold anything.
  EXPECT_NO_THROW(make_decoder(with("transformers_version", "5.17"), "config.json", {}));
}

TEST(Registry, RefusesUnknownArchitecturesAndNamesTheKnownOnes) {
  expect_refused(with("architectures", {"LlamaForCausalLM"}),
                 {"unknown architecture `LlamaForCausalLM`", "Qwen3MoeForCausalLM"});
  auto c = config();
  c.erase("architectures");
  expect_refused(c, {"`architectures`", "Qwen3MoeForCausalLM"});
}

}  // namespace
}  // namespace conclave::models
