#include "recipes/dry_run.h"

#include <cstdio>

#include "base/human.h"
#include "base/memory.h"
#include "base/text.h"
#include "plan/memory.h"
#include "plan/one_token.h"
#include "recipes/model_io.h"
#include "recipes/shape.h"

namespace conclave::recipes {

plan::ModelShape shape_of(const nn::Decoder& decoder) {
  plan::ModelShape shape{.vocab = decoder.vocab, .hidden = decoder.hidden, .tied = decoder.tied};
  for (const auto& layer : decoder.layers) {
    const auto& f = layer.facts;
    shape.layers.push_back({.heads = f.heads,
                            .kv_heads = f.kv_heads,
                            .head_dim = f.head_dim,
                            .attention_biases = f.attention_biases,
                            .dense_ffn = f.dense_ffn,
                            .experts = f.experts,
                            .top_k = f.top_k,
                            .ffn = f.ffn});
  }
  return shape;
}

plan::MemoryForecast forecast(const PretrainConfig& c, const plan::ModelShape& shape) {
  plan::TrainingRun run;
  run.precision = c.dtype == "bf16"   ? plan::Precision::bf16
                  : c.dtype == "fp64" ? plan::Precision::fp64
                                      : plan::Precision::fp32;
  run.tokens = c.batch.micro_rows * c.data.seq_len;
  run.recompute = {c.memory.recompute.begin(), c.memory.recompute.end()};
  return plan::forecast_memory(shape, run);
}

int print_dry_run(const PretrainConfig& c, const ModelChoice& choice,
                  const std::string& config_path) {
  const nn::Decoder decoder =
      describe_model(choice.config, choice.from, parse_dtype(c.dtype, "dtype"),
                     router_coefs(c.model), choice.places);
  const plan::ModelShape shape = shape_of(decoder);
  const auto parameters = plan::parameters(shape);
  std::printf("# %s, effective\n%s\n", config_path.c_str(), dump_config(c).c_str());
  std::printf("# %s\n", decoder.architecture.c_str());
  std::printf("parameters  %s, of which a token meets %s\n",
              human_count(static_cast<double>(parameters.total)).c_str(),
              human_count(static_cast<double>(parameters.active)).c_str());
  std::printf(
      "FLOPs       %s a token, forward and backward\n\n",
      human_count(static_cast<double>(plan::flops_per_token(shape, c.data.seq_len))).c_str());
  std::printf("# Memory, of %s that are free\n%s\n",
              human_bytes(static_cast<double>(available_memory())).c_str(),
              forecast(c, shape).table().c_str());
  const plan::TokenRun run{
      .config = config_path,
      .model_file = decoder.model_file,
      .rows = c.batch.micro_rows,
      .row_length = c.data.seq_len,
      .micro_batches = (c.batch.rows + c.batch.micro_rows - 1) / c.batch.micro_rows};
  std::fputs(plan::one_token_page(shape, run).c_str(), stdout);
  return 0;
}

}  // namespace conclave::recipes
