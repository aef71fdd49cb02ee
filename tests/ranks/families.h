// Tiny fp64 models with 24 experts, so that 1, 2, 3, 4, 6 and 8 expert ranks exist, and 24 packed
// rows for them, which 1, 2, 3, 4, 6 and 8 ranks share equally.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/tiny.h"

namespace conclave::ranks {

inline constexpr int kRows = 24;

struct Family {
  const char* name;
  nlohmann::json config;
  double mtp_weight;  // of the loss of multi-token prediction; 0: no such modules
};

inline nlohmann::json qwen3() {  // a dense layer before two with experts; the head is the embedding
  nlohmann::json c = parallel::testing::tiny_config();
  c["num_experts"] = 24, c["num_experts_per_tok"] = 3, c["tie_word_embeddings"] = true;
  c["router_aux_loss_coef"] = 0.05;
  return c;
}

inline nlohmann::json deepseek_v3() {  // groups, a shared expert, a module of prediction
  nlohmann::json c = parallel::testing::tiny_deepseek();
  c["n_routed_experts"] = 24, c["num_experts_per_tok"] = 4, c["n_group"] = 4, c["topk_group"] = 2;
  return c;
}

inline nlohmann::json kimi_k2() {  // the same blocks without groups and modules
  nlohmann::json c = deepseek_v3();
  c.erase("num_nextn_predict_layers");
  c["n_group"] = 1, c["topk_group"] = 1, c["num_hidden_layers"] = 3;
  return c;
}

inline nlohmann::json gpt_oss() {  // sinks, a window, biases, experts fused and transposed in files
  return {{"architectures", {"GptOssForCausalLM"}},
          {"hidden_size", 12},
          {"num_hidden_layers", 2},
          {"vocab_size", parallel::testing::kVocab},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"attention_bias", true},
          {"sliding_window", 5},
          {"intermediate_size", 10},
          {"num_local_experts", 24},
          {"num_experts_per_tok", 4},
          {"router_aux_loss_coef", 0.05},
          {"max_position_embeddings", 64}};
}

inline const std::vector<Family>& families() {
  static const std::vector<Family> all = {{"qwen3", qwen3(), 0},
                                          {"gpt_oss", gpt_oss(), 0},
                                          {"deepseek_v3", deepseek_v3(), 0.3},
                                          {"kimi_k2", kimi_k2(), 0}};
  return all;
}

// Rows first … first + count − 1 of 8 tokens: other documents and labels in each. `short_half`: of
// the second half of all rows each token is a document, of which none is scored and none is left
// for a module of prediction.
inline parallel::Batch rows_of(int first, int count, bool short_half = false) {
  using parallel::testing::kIgnored;
  using parallel::testing::kVocab;
  static const std::vector<std::vector<int64_t>> lengths = {
      {3, 5}, {8}, {2, 4, 2}, {7, 1}, {1, 1, 1, 1, 1, 1, 1, 1}};
  std::vector<int64_t> ids, labels, positions;
  parallel::Batch b;
  b.rows.doc_offsets = b.rows.row_offsets = {0};
  for (int r = first; r < first + count; ++r) {
    int64_t d = 0;
    for (int64_t length : lengths[static_cast<size_t>(short_half && r >= kRows / 2 ? 4 : r % 4)]) {
      const auto id = [&](int64_t t) { return (7 * r + 11 * d + 5 * t + t * t + r * t) % kVocab; };
      for (int64_t t = 0; t < length; ++t) {
        ids.push_back(id(t));
        positions.push_back(t);
        labels.push_back(t + 1 == length || (t + r) % 5 == 2 ? kIgnored : id(t + 1));
      }
      b.rows.doc_offsets.push_back(static_cast<int64_t>(ids.size()));
      ++d;
    }
    b.rows.row_offsets.push_back(static_cast<int64_t>(ids.size()));
  }
  const auto whole = at::TensorOptions().dtype(at::kLong);
  b.ids = at::tensor(ids, whole), b.labels = at::tensor(labels, whole);
  b.rows.positions = at::tensor(positions, whole);
  return b;
}

}  // namespace conclave::ranks
