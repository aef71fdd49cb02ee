// The forecast of activations against what the tapes of a real micro-batch say they keep, and the
// count of parameters against the decoder's units, for every family.
#include <ATen/ops/arange.h>
#include <ATen/ops/remainder.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/registry.h"
#include "parallel/micro_batch.h"
#include "plan/memory.h"
#include "recipes/shape.h"

namespace conclave::recipes {
namespace {

using nlohmann::json;

constexpr int64_t kTokens = 40;

json qwen3_moe() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"hidden_size", 24},
          {"num_hidden_layers", 3},
          {"vocab_size", 96},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"attention_bias", true},
          {"intermediate_size", 40},
          {"num_experts", 5},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 12},
          {"mlp_only_layers", {0}},
          {"max_position_embeddings", 64}};
}

json olmoe() {
  return {{"architectures", {"OlmoeForCausalLM"}},
          {"hidden_size", 24},
          {"num_hidden_layers", 2},
          {"vocab_size", 96},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"intermediate_size", 12},
          {"num_experts", 5},
          {"num_experts_per_tok", 2},
          {"max_position_embeddings", 64}};
}

json gpt_oss() {
  return {{"architectures", {"GptOssForCausalLM"}},
          {"hidden_size", 20},
          {"num_hidden_layers", 2},
          {"vocab_size", 96},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"attention_bias", true},
          {"sliding_window", 7},
          {"intermediate_size", 14},
          {"num_local_experts", 5},
          {"num_experts_per_tok", 2},
          {"max_position_embeddings", 64}};
}

json deepseek_v3(bool query_latent) {
  json config = {{"architectures", {"DeepseekV3ForCausalLM"}},
                 {"hidden_size", 24},
                 {"num_hidden_layers", 3},
                 {"vocab_size", 96},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 4},
                 {"q_lora_rank", 10},
                 {"kv_lora_rank", 6},
                 {"qk_nope_head_dim", 5},
                 {"qk_rope_head_dim", 2},
                 {"v_head_dim", 3},
                 {"attention_bias", true},
                 {"intermediate_size", 40},
                 {"first_k_dense_replace", 1},
                 {"n_routed_experts", 6},
                 {"n_shared_experts", 2},
                 {"num_experts_per_tok", 2},
                 {"moe_intermediate_size", 12},
                 {"n_group", 2},
                 {"topk_group", 1},
                 {"num_nextn_predict_layers", 1},
                 {"max_position_embeddings", 64}};
  if (!query_latent) config["q_lora_rank"] = nullptr;
  return config;
}

const std::vector<json>& families() {
  static const std::vector<json> all{qwen3_moe(), olmoe(), gpt_oss(), deepseek_v3(true),
                                     deepseek_v3(false)};
  return all;
}

std::map<std::string, int64_t> kept_by_tapes(nn::Decoder& decoder,
                                             const std::set<std::string>& recompute,
                                             double mtp_weight) {
  const auto comm = comm::single();
  comm::LocalDispatcher dispatcher;
  parallel::Units units(decoder, *comm);
  parallel::initialise(units, 1, 0.02);
  parallel::Batch batch;
  batch.ids = at::remainder(at::arange(kTokens, at::kLong), 96);
  batch.labels = at::remainder(at::arange(1, kTokens + 1, at::kLong), 96);
  batch.rows.positions = at::arange(kTokens, at::kLong);
  batch.rows.doc_offsets = {0, kTokens};
  batch.rows.row_offsets = {0, kTokens};
  parallel::MicroBatch micro(decoder, units, dispatcher, batch,
                             {.recompute = recompute, .mtp_weight = mtp_weight});
  micro.forward();
  return micro.saved_bytes();
}

TEST(SavedBytes, AreWhatTheTapesKeep) {
  const std::set<std::string> sets[] = {{},
                                        {"norm", "swiglu"},
                                        {"rotary"},
                                        {"norm", "rotary"},
                                        {"qkv", "rotary", "attention", "dispatch", "gate_up"}};
  for (const json& config : families())
    for (auto [dtype, precision] : {std::pair{at::kFloat, plan::Precision::fp32},
                                    {at::kDouble, plan::Precision::fp64},
                                    {at::kBFloat16, plan::Precision::bf16}})
      for (const auto& recompute : sets) {
        SCOPED_TRACE(config["architectures"].dump());
        nn::Decoder decoder = models::make_decoder(config, "tiny", {.dtype = dtype});
        const plan::MemoryForecast forecast = plan::forecast_memory(
            shape_of(decoder), {.precision = precision, .tokens = kTokens, .recompute = recompute});
        auto kept = kept_by_tapes(decoder, recompute, 0);
        // The way to the experts is kept outside the tapes.
        kept["layout"] = forecast.bytes("activations: layout");
        for (const auto& [name, bytes] : kept)
          EXPECT_EQ(forecast.bytes("activations: " + name), bytes) << name;
        for (const plan::MemoryRow& row : forecast.rows) {
          if (!row.what.starts_with("activations: ")) continue;
          EXPECT_EQ(kept[row.what.substr(13)], row.bytes) << row.what;
        }
      }
}

// A module sees one token of a document less; the forecast leaves that out.
TEST(SavedBytes, OfMultiTokenPrediction) {
  nn::Decoder decoder =
      models::make_decoder(deepseek_v3(true), "tiny", {.dtype = at::kFloat, .mtp = true});
  const plan::MemoryForecast forecast =
      plan::forecast_memory(shape_of(decoder), {.tokens = kTokens});
  auto kept = kept_by_tapes(decoder, {}, 0.3);
  kept["layout"] = forecast.bytes("activations: layout");
  for (const auto& [name, bytes] : kept) {
    EXPECT_LE(bytes, forecast.bytes("activations: " + name)) << name;
    EXPECT_GE(static_cast<double>(bytes),
              (1 - 1.0 / kTokens) * static_cast<double>(forecast.bytes("activations: " + name)))
        << name;
  }
}

int64_t weights_of(const nn::Decoder& decoder, bool trained) {
  int64_t n = 0;
  for (const auto& unit : decoder.units)
    for (const auto& w : unit->weights())
      if (unit->trained() == trained) n += w->numel();
  return n;
}

TEST(Shape, CountsTheWeightsThatADecoderHas) {
  for (const json& config : families())
    for (const bool mtp : {false, true}) {
      SCOPED_TRACE(config["architectures"].dump());
      const nn::Decoder decoder = models::make_decoder(config, "tiny", {.mtp = mtp});
      const plan::Parameters p = plan::parameters(shape_of(decoder));
      EXPECT_EQ(p.total + p.mtp, weights_of(decoder, true));
      EXPECT_EQ(p.untrained, weights_of(decoder, false));
      EXPECT_EQ(p.mtp > 0, mtp && config.contains("num_nextn_predict_layers"));
    }
}

// Trap 9: a config's head_dim goes before hidden / heads, in weights and FLOPs alike.
TEST(Shape, Trap9FlopsFromAWrongHeadDim) {
  for (json config : {qwen3_moe(), gpt_oss()}) {
    SCOPED_TRACE(config["architectures"].dump());
    config["head_dim"] = 14;
    const nn::Decoder decoder = models::make_decoder(config, "tiny", {});
    const plan::ModelShape shape = shape_of(decoder);
    int64_t products = 0;  // of a token with queries, keys, values and output: as the weights say
    for (const auto& unit : decoder.units)
      for (const auto& w : unit->weights())
        if (w->name().ends_with("_proj.weight") && w->name().find("self_attn") != std::string::npos)
          products += w->numel();
    EXPECT_EQ(plan::flops_per_token(shape, 32).projections, 6 * products);
    for (const auto& layer : shape.layers) EXPECT_EQ(layer.head_dim, 14);
  }
}

TEST(Shape, CountsTheShareOfARank) {
  for (const json& config : families()) {
    SCOPED_TRACE(config["architectures"].dump());
    json shared = config;
    for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"})
      if (shared.contains(key)) shared[key] = 6;
    const nn::Decoder decoder =
        models::make_decoder(shared, "tiny", {.share = {.expert_ranks = 3, .ends = false}});
    EXPECT_EQ(plan::parameters(shape_of(decoder)).total, weights_of(decoder, true));
    EXPECT_EQ(decoder.embedding, nullptr);
  }
}

}  // namespace
}  // namespace conclave::recipes
