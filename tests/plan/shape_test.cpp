// Against the published figures of the five models and Qwen3-235B-A22B, and small models by hand.
#include "plan/shape.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "plan/cases.h"

namespace conclave::plan {
namespace {

TEST(Shape, ParametersOfQwen3) {
  const Parameters small = parameters(qwen3_30b_a3b());
  EXPECT_EQ(small.total, 30'532'122'624);
  EXPECT_EQ(small.active, 3'353'032'704);
  EXPECT_EQ(small.experts, int64_t{48} * 128 * 3 * 2048 * 768);
  EXPECT_EQ(small.mtp, 0);
  ModelShape large{151'936, 4096, {}, false};
  large.layers.assign(94, {.heads = 64,
                           .kv_heads = 4,
                           .head_dim = 128,
                           .head_norms = true,
                           .experts = 128,
                           .top_k = 8,
                           .ffn = 1536});
  EXPECT_EQ(parameters(large).total, 235'093'634'560);
  EXPECT_NEAR(static_cast<double>(parameters(large).active), 22.2e9, 0.1e9);
}

TEST(Shape, ParametersOfTheOthers) {
  EXPECT_EQ(parameters(gpt_oss(24, 32)).total, 20'914'757'184);
  EXPECT_EQ(parameters(gpt_oss(36, 128)).total, 116'829'156'672);
  EXPECT_EQ(parameters(deepseek_v3()).total, 671'026'404'352);
  EXPECT_EQ(parameters(kimi_k2()).total, 1'026'408'209'408);
  // DeepSeek-V3's card: 671 B, and 14 B of multi-token prediction, of which embedding and head,
  // 2 · 0.93 B, are copies.
  EXPECT_NEAR(static_cast<double>(parameters(deepseek_v3()).mtp), 11.6e9, 0.1e9);
  EXPECT_EQ(parameters(deepseek_v3()).untrained, 59 * 256);
  EXPECT_NEAR(static_cast<double>(parameters(deepseek_v3()).active), 37.5e9, 0.1e9);
  EXPECT_NEAR(static_cast<double>(parameters(gpt_oss(36, 128)).active), 5.7e9, 0.1e9);
}

TEST(Shape, FlopsOfTheFive) {
  const auto total = [](const ModelShape& m) { return flops_per_token(m, 4096).total(); };
  EXPECT_EQ(total(qwen3_30b_a3b()), 23'006'281'728);
  EXPECT_EQ(total(gpt_oss(24, 32)), 22'911'869'952);
  EXPECT_EQ(total(gpt_oss(36, 128)), 32'630'404'608);
  EXPECT_EQ(total(deepseek_v3()), 249'811'304'448);
  EXPECT_EQ(total(kimi_k2()), 204'476'645'376);
  // Only attention's scores and values grow with the row: 6 · 48 · 32 · 128 more for each token of
  // it.
  EXPECT_EQ(flops_per_token(qwen3_30b_a3b(), 4097).total() - total(qwen3_30b_a3b()),
            6 * 48 * 32 * 128);
}

TEST(Shape, FlopsByTerm) {
  const Flops f = flops_per_token(deepseek_v3(), 4096);
  EXPECT_EQ(f.projections, 6 * 61 *
                               (int64_t{7168} * 1536 + 1536 * 192 * 128 + 7168 * 576 +
                                512 * 256 * 128 + int64_t{128} * 128 * 7168));
  EXPECT_EQ(f.scores, int64_t{6} * 61 * 2048 * 128 * 320);
  EXPECT_EQ(f.experts, int64_t{6} * 58 * 3 * 7168 * 2048 * 8);
  EXPECT_EQ(f.shared, int64_t{6} * 58 * 3 * 7168 * 2048);
  EXPECT_EQ(f.dense, int64_t{6} * 3 * 3 * 7168 * 18'432);
  EXPECT_EQ(f.head, int64_t{6} * 7168 * 129'280);
  EXPECT_EQ(f.mtp, (f.projections + f.scores) / 61 + (f.experts + f.shared) / 58 +
                       int64_t{6} * 2 * 7168 * 7168 + f.head);
}

TEST(Shape, AWindowCountsItsPairs) {
  ModelShape m{10, 4, {}, true};
  m.layers = {{.heads = 2, .kv_heads = 1, .head_dim = 3, .window = 3, .dense_ffn = 5}};
  // 1 + 2 + 3 · 6 pairs of a row of 8, each twice heads · head_dim.
  EXPECT_EQ(flops_per_token(m, 8).scores, 6 * 2 * 6 * 21 / 8);
  m.layers[0].window = 8;  // all: causal attention at half of the row
  EXPECT_EQ(flops_per_token(m, 8).scores, 6 * 6 * 8);
  m.layers[0].window = 0;
  EXPECT_EQ(flops_per_token(m, 8).scores, 6 * 6 * 8);
}

// Trap 9: a rate from a head_dim of hidden / heads. GPT-OSS's heads are 64 wide, not 2880 / 64 =
// 45; the wrong width takes 1.5 G from its 22.9 G.
TEST(Shape, Trap9FlopsFromAWrongHeadDim) {
  ModelShape m = gpt_oss(24, 32);
  const Flops right = flops_per_token(m, 4096);
  for (auto& layer : m.layers) layer.head_dim = m.hidden / layer.heads;
  const Flops wrong = flops_per_token(m, 4096);
  EXPECT_EQ(right.total() / 10'000'000, 2291);
  EXPECT_EQ(right.projections, int64_t{6} * 24 * 2880 * 64 * (64 + 2 * 8 + 64));
  EXPECT_EQ(wrong.projections, right.projections / 64 * 45);
  EXPECT_LT(wrong.total(), right.total() - 1'500'000'000);
}

TEST(Shape, ByHand) {
  // Embedding 10 · 4, no head of its own, final norm 4.
  ModelShape m{10, 4, {}, true};
  EXPECT_EQ(parameters(m).total, 44);
  EXPECT_EQ(flops_per_token(m, 8).total(), 6 * 40);
  m.tied = false;
  EXPECT_EQ(parameters(m).total, 84);
  EXPECT_EQ(flops_per_token(m, 8).total(), 6 * 40);

  // q 4·6, k and v 4·3 each, o 6·4, norms 4 + 4 and 3 + 3; dense 3·4·5.
  m.layers = {{.heads = 2, .kv_heads = 1, .head_dim = 3, .head_norms = true, .dense_ffn = 5}};
  EXPECT_EQ(parameters(m).total, 84 + 72 + 14 + 60);
  EXPECT_EQ(parameters(m).active, parameters(m).total);
  EXPECT_EQ(flops_per_token(m, 8).total(), 6 * (40 + 72 + 6 * 8 + 60));

  m.layers[0].head_norms = false;
  m.layers[0].attention_biases = true;  // 6 + 3 + 3 + 4
  m.layers[0].sinks = true;             // 2
  EXPECT_EQ(parameters(m).total, 84 + 72 + 8 + 16 + 2 + 60);
  m.layers[0].whole_norms = true;  // 6 + 3
  EXPECT_EQ(parameters(m).total, 84 + 72 + 8 + 16 + 2 + 9 + 60);

  // Five experts of 3·4·2, one of them active, a shared one of 3·4·7, router 5·4.
  m.layers[0] = {.heads = 2,
                 .kv_heads = 1,
                 .head_dim = 3,
                 .head_norms = true,
                 .experts = 5,
                 .top_k = 1,
                 .ffn = 2,
                 .shared_ffn = 7};
  EXPECT_EQ(parameters(m).total, 84 + 72 + 14 + 20 + 5 * 24 + 84);
  EXPECT_EQ(parameters(m).active, 84 + 72 + 14 + 20 + 24 + 84);
  EXPECT_EQ(flops_per_token(m, 8).total(), 6 * (40 + 72 + 48 + 24 + 84));
  m.layers[0].router_bias = m.layers[0].expert_biases = true;  // 5, and 2·2 + 4 an expert
  EXPECT_EQ(parameters(m).total, 84 + 72 + 14 + 25 + 5 * 32 + 84);
  EXPECT_EQ(parameters(m).experts, 5 * 32);
}

TEST(Shape, LatentAttentionByHand) {
  // q_a 4·3, q_b 3·2·(2 + 1), kv_a 4·(2 + 1), kv_b 2·2·(2 + 5), o 2·5·4; norms 4 + 4, 3 and 2.
  ModelShape m{10, 4, {}, false};
  m.layers = {{.heads = 2,
               .mla = {.q_rank = 3, .kv_rank = 2, .nope = 2, .rope = 1, .v_dim = 5},
               .dense_ffn = 5}};
  EXPECT_EQ(parameters(m).total, 84 + (12 + 18 + 12 + 28 + 40) + 13 + 60);
  EXPECT_EQ(flops_per_token(m, 8).total(), 6 * (40 + 110 + 2 * 8 * 4 + 60));
  m.layers[0].mla.q_rank = 0;  // q 4·2·3
  EXPECT_EQ(parameters(m).total, 84 + (24 + 12 + 28 + 40) + 10 + 60);
  m.layers[0].attention_biases = true;  // 2 + 1, 4
  EXPECT_EQ(parameters(m).total, 84 + 104 + 10 + 7 + 60);
}

TEST(Shape, OneRankOfMany) {
  ModelShape m = qwen3_30b_a3b();
  m.expert_ranks = 8;
  EXPECT_EQ(parameters(m).experts, int64_t{48} * 16 * 3 * 2048 * 768);
  EXPECT_EQ(parameters(m).active, parameters(qwen3_30b_a3b()).active);
  EXPECT_EQ(flops_per_token(m, 4096).total(), 23'006'281'728);
  m.ends = false;
  EXPECT_EQ(parameters(m).active, parameters(qwen3_30b_a3b()).active - 2 * 151'936 * 2048 - 2048);
  EXPECT_EQ(flops_per_token(m, 4096).head, 0);
}

std::string refusal(const ModelShape& model) {
  try {
    check(model);
  } catch (const std::logic_error& e) {
    return e.what();
  }
  return {};
}

TEST(Shape, RefusesWhatCannotBe) {
  ModelShape m = qwen3_30b_a3b();
  EXPECT_EQ(refusal(m), "");
  m.layers[3].kv_heads = 5;
  EXPECT_EQ(refusal(m),
            "model shape: layer 3: expected heads a multiple of kv_heads, all sizes at least 1");
  m = qwen3_30b_a3b();
  m.layers[1].dense_ffn = 7;
  EXPECT_EQ(refusal(m), "model shape: layer 1: expected either dense_ffn or experts above 0");
  m = qwen3_30b_a3b();
  m.layers[0].top_k = 129;
  EXPECT_EQ(refusal(m),
            "model shape: layer 0: expected ffn of at least 1 and top_k in 1 … experts");
  m = deepseek_v3();
  m.layers[2].mla.rope = 0;
  EXPECT_EQ(refusal(m),
            "model shape: layer 2: expected heads and all sizes of mla at least 1, no kv_heads and "
            "head_dim beside it");
  m = deepseek_v3();
  m.expert_ranks = 3;
  EXPECT_EQ(refusal(m), "model shape: layer 3: expected experts a multiple of expert_ranks");
  EXPECT_EQ(refusal({}), "model shape: expected vocab and hidden of at least 1");
}

}  // namespace
}  // namespace conclave::plan
