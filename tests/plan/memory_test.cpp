#include "plan/memory.h"

#include <gtest/gtest.h>

#include "plan/cases.h"

namespace conclave::plan {
namespace {

TEST(Memory, StatesByPrecision) {
  const ModelShape m = qwen3_30b_a3b();
  const int64_t n = 30'532'122'624;
  const auto forecast = [&](Precision p) {
    return forecast_memory(m, {.precision = p, .tokens = 4096});
  };
  EXPECT_EQ(forecast(Precision::fp32).bytes("weights"), 4 * n);
  EXPECT_EQ(forecast(Precision::fp32).bytes("master, low bits"), 0);
  EXPECT_EQ(forecast(Precision::fp32).bytes("gradients"), 4 * n);
  EXPECT_EQ(forecast(Precision::fp32).bytes("optimizer moments"), 8 * n);
  EXPECT_EQ(forecast(Precision::fp32).bytes("copy for saving"), 12 * n);
  EXPECT_EQ(forecast(Precision::bf16).bytes("weights"), 2 * n);
  EXPECT_EQ(forecast(Precision::bf16).bytes("master, low bits"), 2 * n);
  EXPECT_EQ(forecast(Precision::bf16).bytes("gradients"), 4 * n);
  EXPECT_EQ(forecast(Precision::bf16).bytes("copy for saving"), 12 * n);
  EXPECT_EQ(forecast(Precision::fp64).bytes("optimizer moments"), 16 * n);
}

TEST(Memory, SavedBytesByHand) {
  const LayerShape l = tiny().layers[1];
  const auto b = saved_bytes_per_token(l, 24, Precision::bf16);
  EXPECT_EQ(b.at("residual"), 2 * 24 * 2);
  EXPECT_EQ(b.at("norm"), 2 * 24 * 2);
  EXPECT_EQ(b.at("statistics"), (2 + 4 + 2 + 4) * 4);
  EXPECT_EQ(b.at("qkv"), (24 + 12 + 12) * 2);
  EXPECT_EQ(b.at("rotary"), (24 + 12) * 2);
  EXPECT_EQ(b.at("attention"), 24 * 2);
  EXPECT_EQ(b.at("router"), (5 + 2) * 4);
  EXPECT_EQ(b.at("layout"), 3 * 2 * 8);
  EXPECT_EQ(b.at("dispatch"), 2 * 24 * 2);
  EXPECT_EQ(b.at("gate_up"), 2 * 2 * 12 * 2);
  EXPECT_EQ(b.at("swiglu"), 2 * 12 * 2);
  const auto dense = saved_bytes_per_token(tiny().layers[0], 24, Precision::fp32);
  EXPECT_EQ(dense.at("dispatch"), 0);
  EXPECT_EQ(dense.at("router"), 0);
  EXPECT_EQ(dense.at("gate_up"), 2 * 40 * 4);
  EXPECT_EQ(dense.at("swiglu"), 40 * 4);
}

TEST(Memory, RecomputeTakesItsClassAwayAndNoOther) {
  const ModelShape m = tiny();
  const MemoryForecast whole = forecast_memory(m, {.tokens = 1000});
  EXPECT_EQ(recomputable_classes(m), (std::vector<std::string>{"norm", "qkv", "rotary", "attention",
                                                               "dispatch", "gate_up", "swiglu"}));
  for (const std::string& c : recomputable_classes(m)) {
    const MemoryForecast less = forecast_memory(m, {.tokens = 1000, .recompute = {c}});
    EXPECT_GT(whole.bytes("activations: " + c), 0);
    for (const MemoryRow& row : whole.rows) {
      if (row.what == "scratch") continue;
      EXPECT_EQ(less.bytes(row.what), row.what == "activations: " + c ? 0 : row.bytes) << row.what;
    }
    EXPECT_GE(less.bytes("scratch"), whole.bytes("scratch"));
  }
  ModelShape dense = m;
  dense.layers.resize(1);
  EXPECT_EQ(recomputable_classes(dense),
            (std::vector<std::string>{"norm", "qkv", "rotary", "attention", "gate_up", "swiglu"}));
}

TEST(Memory, OneRankOfMany) {
  ModelShape m = qwen3_30b_a3b();
  m.expert_ranks = 8;
  TrainingRun run{.precision = Precision::bf16,
                  .master = false,
                  .moment_bytes = 2,
                  .grad_bytes = 2,
                  .dense_shards = 8,
                  .tokens = 4096,
                  .received = 5.34,
                  .saves = false};
  const int64_t experts = int64_t{48} * 16 * 3 * 2048 * 768, rest = parameters(m).total - experts;
  MemoryForecast f = forecast_memory(m, run);
  EXPECT_EQ(f.bytes("weights"), 2 * (rest + experts));
  EXPECT_EQ(f.bytes("gradients"), 2 * (rest + experts));
  EXPECT_EQ(f.bytes("optimizer moments"), 4 * (rest / 8 + experts));
  EXPECT_EQ(f.bytes("master, low bits"), 0);
  EXPECT_EQ(f.bytes("receive buffer"), static_cast<int64_t>(5.34 * 4096) * 2048 * 2);
  run.master = true;
  EXPECT_EQ(forecast_memory(m, run).bytes("master, low bits"), 2 * (rest / 8 + experts));

  run.recompute = {"norm", "swiglu", "rotary", "dispatch"};
  m.ends = false;
  f = forecast_memory(m, run);
  EXPECT_EQ(f.bytes("logits, one chunk"), 0);
  EXPECT_EQ(f.bytes("activations: residual"), int64_t{4096} * 48 * 2 * 2048 * 2);
}

TEST(Memory, LatentAttentionByHand) {
  const LayerShape l{.heads = 4,
                     .mla = {.q_rank = 10, .kv_rank = 6, .nope = 5, .rope = 2, .v_dim = 3},
                     .experts = 5,
                     .top_k = 2,
                     .ffn = 12,
                     .shared_ffn = 7};
  auto b = saved_bytes_per_token(l, 24, Precision::bf16);
  EXPECT_EQ(b.at("norm"), (2 * 24 + 10 + 6) * 2);
  EXPECT_EQ(b.at("statistics"), (2 + 2 + 4) * 4);
  EXPECT_EQ(b.at("qkv"), (4 * 7 + 10 + 6 + 2) * 2);
  EXPECT_EQ(b.at("rotary"), 0);
  EXPECT_EQ(b.at("attention"), 4 * 3 * 2);
  EXPECT_EQ(b.at("gate_up"), 2 * (2 * 12 + 7) * 2);
  LayerShape direct = l;
  direct.mla.q_rank = 0;
  b = saved_bytes_per_token(direct, 24, Precision::bf16);
  EXPECT_EQ(b.at("norm"), (2 * 24 + 6) * 2);
  EXPECT_EQ(b.at("statistics"), (2 + 1 + 4) * 4);
  EXPECT_EQ(b.at("qkv"), (4 * 7 + 6 + 2) * 2);
}

TEST(Memory, RotaryAgainNeedsWhatItTurns) {
  const LayerShape l = gpt_oss(2, 8).layers[0];
  const int64_t turned = (64 + 8) * 64 * 2, values = 8 * 64 * 2;
  auto b = saved_bytes_per_token(l, 2880, Precision::bf16);
  EXPECT_EQ(b.at("rotary"), turned);
  EXPECT_EQ(b.at("qkv"), values);
  b = saved_bytes_per_token(l, 2880, Precision::bf16, {"rotary"});
  EXPECT_EQ(b.at("rotary"), 0);
  EXPECT_EQ(b.at("qkv"), values + turned);
  b = saved_bytes_per_token(l, 2880, Precision::bf16, {"qkv", "rotary"});
  EXPECT_EQ(b.at("rotary") + b.at("qkv"), 0);
}

TEST(Memory, LogitsAreOneChunk) {
  const ModelShape m = tiny();
  const auto logits = [&](TrainingRun run) {
    return forecast_memory(m, run).bytes("logits, one chunk");
  };
  EXPECT_EQ(logits({.tokens = 1000}), 1000 * 96 * 4);  // all tokens fit
  EXPECT_EQ(logits({.tokens = 1000, .max_logits = 10 * 96 + 5}), 10 * 96 * 4);
  EXPECT_EQ(logits({.tokens = 1000, .max_logits = 5}), 96 * 4);  // at least one token
  EXPECT_EQ(logits({.precision = Precision::bf16, .tokens = 1000}), 1000 * 96 * 6);
}

TEST(Memory, OnAGpuByHand) {
  ModelShape m = tiny();
  m.layers.erase(m.layers.begin());  // those with experts stay
  const LayerShape& l = m.layers[0];
  TrainingRun run{.precision = Precision::bf16, .grad_bytes = 2, .tokens = 1000, .on_gpu = true};
  m.ends = false;
  MemoryForecast f = forecast_memory(m, run);
  EXPECT_EQ(f.bytes("activations: layout"), 2 * 1000 * l.top_k * (8 + 2 * 4));
  EXPECT_EQ(f.bytes("copy for saving") + f.bytes("program and libtorch"), 0);
  // At fc2's weight gradient: the stream, both rows' gradients, gate and up's; and what is added.
  EXPECT_EQ(f.bytes("a layer's gradients"),
            1000 * 2 * (24 + 2 * l.top_k * 24 + 2 * l.top_k * l.ffn) + l.experts * l.ffn * 24 * 2);
  run.received = 1.5;
  m.expert_ranks = l.experts;
  f = forecast_memory(m, run);
  EXPECT_EQ(f.bytes("activations: layout"),
            2 * 1000 * (l.top_k * (8 + 2 * 4) + (2 * l.top_k + 2 * l.top_k + 1) * 4));
  m.ends = true;
  m.vocab = 100'000;
  f = forecast_memory(m, run);
  EXPECT_EQ(f.bytes("head's logits"), 1000 * 2 * (m.vocab + 2 * 24));
}

TEST(Memory, DeterministicAttentionKeepsItsScores) {
  ModelShape m = tiny();
  m.ends = false;
  LayerShape& l = m.layers.back();
  auto gradients = [&](int64_t row) {
    return forecast_memory(m, {.precision = Precision::bf16,
                               .tokens = 1000,
                               .on_gpu = true,
                               .deterministic_row = row})
        .bytes("a layer's gradients");
  };
  const int64_t heads = l.heads, most = int64_t{1} << 30;
  EXPECT_EQ(gradients(100'000) - gradients(50'000), 2 * heads * 1000 * 50'000);
  EXPECT_EQ(gradients(1'000'000) - gradients(100'000), most - 2 * heads * 1000 * 100'000);
  l.window = 8;
  EXPECT_EQ(gradients(100'000), gradients(0));
}

TEST(Memory, TableShowsEveryRowAndTheTotal) {
  const MemoryForecast f{{{"weights", 3 << 20}, {"gradients", 1536}}};
  EXPECT_EQ(f.total(), (3 << 20) + 1536);
  EXPECT_EQ(f.table(),
            "weights                          3.0 MiB\n"
            "gradients                        1.5 KiB\n"
            "total                            3.0 MiB\n");
  const MemoryForecast run =
      forecast_memory(tiny(), {.tokens = 64, .data_bytes = 1000, .saves = false});
  EXPECT_EQ(run.bytes("copy for saving"), 0);
  EXPECT_EQ(run.bytes("data"), 1000);
  EXPECT_EQ(run.bytes("program and libtorch"), int64_t{150} << 20);
  int64_t sum = 0;
  for (const MemoryRow& row : run.rows) {
    EXPECT_GT(row.bytes, 0) << row.what;
    sum += row.bytes;
  }
  EXPECT_EQ(run.total(), sum);
}

}  // namespace
}  // namespace conclave::plan
