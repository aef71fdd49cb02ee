#include "recipes/shape.h"

#include "base/files.h"
#include "base/human.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/text.h"

namespace conclave::recipes {
namespace {

plan::LayerShape shape_of(const nn::LayerFacts& f) {
  return {.heads = f.heads,
          .kv_heads = f.kv_heads,
          .head_dim = f.head_dim,
          .mla = {.q_rank = f.mla.q_rank,
                  .kv_rank = f.mla.kv_rank,
                  .nope = f.mla.nope,
                  .rope = f.mla.rope,
                  .v_dim = f.mla.v_dim},
          .window = f.window,
          .head_norms = f.head_norms,
          .whole_norms = f.whole_norms,
          .sinks = f.sinks,
          .attention_biases = f.attention_biases,
          .dense_ffn = f.dense_ffn,
          .experts = f.experts,
          .top_k = f.top_k,
          .ffn = f.ffn,
          .shared_ffn = f.shared_ffn,
          .router_bias = f.router_bias,
          .expert_biases = f.expert_biases,
          .correction_bias = f.correction_bias};
}

}  // namespace

plan::ModelShape shape_of(const nn::Decoder& decoder) {
  plan::ModelShape shape{.vocab = decoder.vocab, .hidden = decoder.hidden, .tied = decoder.tied};
  for (const auto& layer : decoder.layers) shape.layers.push_back(shape_of(layer.facts));
  for (const auto& module : decoder.mtp) shape.mtp.push_back(shape_of(module.layer.facts));
  shape.ends = decoder.share.ends;
  shape.expert_ranks = decoder.share.expert_ranks;
  return shape;
}

comm::LoadFacts load_facts(const plan::ModelShape& shape, int64_t tokens, int64_t expert_ranks) {
  comm::LoadFacts facts{.tokens = tokens, .ranks = expert_ranks};
  for (const auto& layer : shape.layers)
    if (layer.experts > 0) facts.experts = layer.experts, facts.top_k = layer.top_k;
  return facts;
}

plan::Precision precision_of(const std::string& dtype) {
  return dtype == "bf16"   ? plan::Precision::bf16
         : dtype == "fp64" ? plan::Precision::fp64
                           : plan::Precision::fp32;
}

plan::MemoryForecast forecast(const PretrainConfig& c, const plan::ModelShape& shape,
                              at::Device device, int64_t data_bytes) {
  plan::TrainingRun run;
  run.precision = precision_of(c.dtype);
  run.tokens = c.batch.micro_rows * c.data.seq_len;
  run.at_once = c.batch.rows > c.batch.micro_rows ? c.parallel.at_once : 1;
  run.recompute = {c.memory.recompute.begin(), c.memory.recompute.end()};
  run.on_gpu = device.is_cuda();
  run.saves = !run.on_gpu;  // there the copy lies in the host's memory, as does the text
  run.data_bytes = run.on_gpu ? 0 : data_bytes;
  run.base_bytes = program_bytes();
  return plan::forecast_memory(shape, run);
}

int64_t expected_data_bytes(const PretrainConfig& c) {
  for (const auto& path : c.data.text.paths)
    if (!path_exists(path)) return 0;
  return static_cast<int64_t>(data::Corpus(c.data.text).bytes() / 3 * sizeof(int32_t));
}

int64_t data_bytes(const data::TokenizedText& text, const data::PackedDataset& rows) {
  constexpr int64_t a_document = 3 * sizeof(int64_t), a_row = sizeof(int64_t);
  return text.tokens() * static_cast<int64_t>(sizeof(int32_t)) + text.docs() * a_document +
         rows.rows() * a_row;
}

int64_t program_bytes() {
  constexpr int64_t kTouchedLater = int64_t{12} << 20;
  return static_cast<int64_t>(memory_at_start()) + kTouchedLater;
}

std::string parameter_count(int64_t n) {
  const double count = static_cast<double>(n);
  return n < 1'000'000'000 ? human_count(count) : format("%.1f B", count / 1e9);
}

std::string flops_table(const plan::Flops& f) {
  std::string text;
  const bool giga = f.total() >= 1'000'000'000;
  const auto line = [&](const char* what, int64_t flops, const char* remark = "") {
    if (flops > 0)
      text += format("%-28s%12.3f %s%s\n", what, static_cast<double>(flops) / (giga ? 1e9 : 1e6),
                     giga ? "G" : "M", remark);
  };
  line("attention's projections", f.projections);
  line("scores and values", f.scores);
  line("experts", f.experts);
  line("shared experts", f.shared);
  line("dense layers", f.dense);
  line("head", f.head);
  line("total", f.total());
  line("multi-token prediction", f.mtp, ", not in the total");
  return text;
}

}  // namespace conclave::recipes
