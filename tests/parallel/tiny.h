// Tiny decoders in fp64 and four packed rows for them: Qwen3-MoE (one dense layer, two with
// experts), GPT-OSS (a window of 3 in the first and the last of three layers) and DeepSeek-V3 (one
// dense layer, one with experts and a shared one, multi-token prediction).
#pragma once
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "models/registry.h"
#include "parallel/micro_batch.h"

namespace conclave::parallel::testing {

inline constexpr int64_t kVocab = 29, kIgnored = -100;

inline nlohmann::json tiny_config() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"hidden_size", 12},
          {"num_hidden_layers", 3},
          {"vocab_size", kVocab},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"attention_bias", true},
          {"intermediate_size", 20},
          {"num_experts", 5},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 10},
          {"mlp_only_layers", {0}},
          {"norm_topk_prob", true},
          {"router_aux_loss_coef", 0.05},
          {"max_position_embeddings", 16}};
}

inline nlohmann::json tiny_gpt_oss() {
  return {{"architectures", {"GptOssForCausalLM"}},
          {"hidden_size", 12},
          {"num_hidden_layers", 3},
          {"vocab_size", kVocab},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"intermediate_size", 10},
          {"num_local_experts", 5},
          {"num_experts_per_tok", 2},
          {"sliding_window", 3},
          {"router_aux_loss_coef", 0.05},
          {"rope_scaling",
           {{"rope_type", "yarn"},
            {"factor", 4.0},
            {"original_max_position_embeddings", 4},
            {"truncate", false}}},
          {"max_position_embeddings", 16}};
}

inline nlohmann::json tiny_deepseek() {
  return {{"architectures", {"DeepseekV3ForCausalLM"}},
          {"hidden_size", 12},
          {"num_hidden_layers", 2},
          {"num_nextn_predict_layers", 1},
          {"vocab_size", kVocab},
          {"num_attention_heads", 3},
          {"q_lora_rank", 8},
          {"kv_lora_rank", 6},
          {"qk_nope_head_dim", 4},
          {"qk_rope_head_dim", 2},
          {"v_head_dim", 5},
          {"intermediate_size", 20},
          {"first_k_dense_replace", 1},
          {"n_routed_experts", 6},
          {"n_shared_experts", 2},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 7},
          {"n_group", 3},
          {"topk_group", 2},
          {"aux_loss_alpha", 0.05},
          {"rope_theta", 10000.0},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 4.0},
            {"original_max_position_embeddings", 4},
            {"mscale", 1.0},
            {"mscale_all_dim", 1.0}}},
          {"max_position_embeddings", 16}};
}

// Lengths of the documents of each packed row; a row has 8 tokens.
inline const std::vector<std::vector<int64_t>> kRows = {{3, 5}, {8}, {2, 4, 2}, {7, 1}};

// Documents as a batch: `rows` lists each row's documents as (row, document) of kRows.
inline Batch make_batch(const std::vector<std::vector<std::pair<int, int>>>& rows) {
  std::vector<int64_t> ids, labels, positions;
  Batch b;
  b.rows.doc_offsets = b.rows.row_offsets = {0};
  for (const auto& row : rows) {
    for (auto [r, d] : row) {
      const int64_t length = kRows[static_cast<size_t>(r)][static_cast<size_t>(d)];
      auto id = [&](int64_t t) { return (7 * r + 11 * d + 5 * t + t * t) % kVocab; };
      for (int64_t t = 0; t < length; ++t) {
        ids.push_back(id(t));
        positions.push_back(t);
        labels.push_back(t + 1 == length || t % 4 == 2 ? kIgnored : id(t + 1));
      }
      b.rows.doc_offsets.push_back(static_cast<int64_t>(ids.size()));
    }
    b.rows.row_offsets.push_back(static_cast<int64_t>(ids.size()));
  }
  const auto whole = at::TensorOptions().dtype(at::kLong);
  b.ids = at::tensor(ids, whole);
  b.labels = at::tensor(labels, whole);
  b.rows.positions = at::tensor(positions, whole);
  return b;
}

// Rows first … last−1 of kRows.
inline Batch packed_rows(int first, int last) {
  std::vector<std::vector<std::pair<int, int>>> rows;
  for (int r = first; r < last; ++r) {
    rows.emplace_back();
    for (int d = 0; d < static_cast<int>(kRows[static_cast<size_t>(r)].size()); ++d)
      rows.back().push_back({r, d});
  }
  return make_batch(rows);
}

inline nn::Decoder make_tiny(nlohmann::json config = tiny_config(), nn::Share share = {}) {
  models::DecoderOptions options;
  options.dtype = at::kDouble;
  options.share = share;
  options.mtp = share.ends;
  return models::make_decoder(config, "tiny", options);
}

// Some of them so far below 0 that biased scores are negative; another set for each layer and
// `seed`.
inline void fill_correction_biases(nn::Decoder& decoder, int seed = 0) {
  for (size_t i = 0; i < decoder.layers.size() + decoder.mtp.size(); ++i)
    if (nn::Weight* bias = decoder.layer(i).block->correction_bias())
      for (int64_t e = 0; e < bias->numel(); ++e) {
        const auto phase = static_cast<double>(e + 5 * seed) + 3.0 * static_cast<double>(i);
        bias->data()[e].fill_(0.6 * std::sin(2.3 * phase) - 0.3);
      }
}

// One rank with its decoder, from the same bits each time.
struct Tiny {
  explicit Tiny(UnitsOptions options = {}, const nlohmann::json& config = tiny_config(),
                nn::Share share = {})
      : decoder(make_tiny(config, share)), comm(comm::single()), units(decoder, *comm, options) {
    initialise(units, 5, 0.3);
    fill_correction_biases(decoder);
  }
  // Gradients of all units that have them, copied.
  std::vector<at::Tensor> gradients() {
    std::vector<at::Tensor> out;
    for (auto& s : units.shards())
      if (s.unit->trained()) out.push_back(s.grad.clone());
    return out;
  }

  nn::Decoder decoder;
  std::unique_ptr<comm::Comm> comm;
  Units units;
  comm::LocalDispatcher dispatcher;
};

// What a tensor of one number holds; 0 where there is none.
inline double number(const at::Tensor& t) { return t.defined() ? t.item().toDouble() : 0; }

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

inline double largest(const at::Tensor& a) {
  return a.numel() ? a.abs().max().item().toDouble() : 0;
}

}  // namespace conclave::parallel::testing
