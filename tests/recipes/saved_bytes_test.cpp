// The forecast of activations against what the tapes of a real micro-batch say they keep.
#include <ATen/ops/arange.h>
#include <ATen/ops/remainder.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/registry.h"
#include "parallel/micro_batch.h"
#include "plan/cases.h"
#include "plan/memory.h"

namespace conclave::plan {
namespace {

constexpr int64_t kTokens = 40;

// The shape tiny() as a config.json.
nlohmann::json tiny_config() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"hidden_size", 24},
          {"num_hidden_layers", 3},
          {"vocab_size", 96},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"intermediate_size", 40},
          {"num_experts", 5},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 12},
          {"mlp_only_layers", {0}},
          {"max_position_embeddings", 64}};
}

std::map<std::string, int64_t> kept_by_tapes(at::ScalarType dtype,
                                             std::set<std::string> recompute) {
  models::DecoderOptions options;
  options.dtype = dtype;
  nn::Decoder decoder = models::make_decoder(tiny_config(), "tiny", options);
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
                             {.recompute = std::move(recompute)});
  micro.forward();
  return micro.saved_bytes();
}

TEST(SavedBytes, AreWhatTheTapesKeep) {
  const ModelShape m = tiny();
  const std::set<std::string> sets[] = {
      {}, {"norm", "swiglu"}, {"qkv", "rotary", "attention", "dispatch", "gate_up"}};
  for (auto [dtype, precision] : {std::pair{at::kFloat, Precision::fp32},
                                  {at::kDouble, Precision::fp64},
                                  {at::kBFloat16, Precision::bf16}})
    for (const auto& recompute : sets) {
      const MemoryForecast forecast =
          forecast_memory(m, {.precision = precision, .tokens = kTokens, .recompute = recompute});
      auto kept = kept_by_tapes(dtype, recompute);
      // The way to the experts is kept outside the tapes.
      kept["layout"] = forecast.bytes("activations: layout");
      for (const auto& [name, bytes] : kept) {
        EXPECT_EQ(forecast.bytes("activations: " + name), bytes) << name;
      }
      for (const MemoryRow& row : forecast.rows) {
        if (!row.what.starts_with("activations: ")) continue;
        EXPECT_EQ(kept[row.what.substr(13)], row.bytes) << row.what;
      }
    }
}

}  // namespace
}  // namespace conclave::plan
