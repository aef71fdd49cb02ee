// Against the published figures of Qwen3-30B-A3B and 235B-A22B, and small models by hand.
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
  ModelShape large{151'936, 4096, {}, false};
  large.layers.assign(
      94, {.heads = 64, .kv_heads = 4, .head_dim = 128, .experts = 128, .top_k = 8, .ffn = 1536});
  EXPECT_EQ(parameters(large).total, 235'093'634'560);
  EXPECT_NEAR(static_cast<double>(parameters(large).active), 22.2e9, 0.1e9);
}

TEST(Shape, FlopsOfQwen3) {
  EXPECT_EQ(flops_per_token(qwen3_30b_a3b(), 4096), 23'006'281'728);
  // Only attention's scores and values grow with the row: 6 · 48 · 32 · 128 more for each token of
  // it.
  EXPECT_EQ(flops_per_token(qwen3_30b_a3b(), 4097) - flops_per_token(qwen3_30b_a3b(), 4096),
            6 * 48 * 32 * 128);
}

TEST(Shape, ByHand) {
  // Embedding 10 · 4, no head of its own, final norm 4.
  ModelShape m{10, 4, {}, true};
  EXPECT_EQ(parameters(m).total, 44);
  EXPECT_EQ(flops_per_token(m, 8), 6 * 40);
  m.tied = false;
  EXPECT_EQ(parameters(m).total, 84);
  EXPECT_EQ(flops_per_token(m, 8), 6 * 40);

  // q 4·6, k and v 4·3 each, o 6·4, norms 4 + 4 and 3 + 3; dense 3·4·5.
  m.layers = {{.heads = 2, .kv_heads = 1, .head_dim = 3, .dense_ffn = 5}};
  EXPECT_EQ(parameters(m).total, 84 + 72 + 14 + 60);
  EXPECT_EQ(parameters(m).active, parameters(m).total);
  EXPECT_EQ(flops_per_token(m, 8), 6 * (40 + 72 + 6 * 8 + 60));

  m.layers[0].head_norms = false;
  m.layers[0].attention_biases = true;  // 6 + 3 + 3 + 4
  EXPECT_EQ(parameters(m).total, 84 + 72 + 8 + 16 + 60);

  // Five experts of 3·4·2, one of them active, a shared one of 3·4·7, router 5·4.
  m.layers[0] = {.heads = 2,
                 .kv_heads = 1,
                 .head_dim = 3,
                 .experts = 5,
                 .top_k = 1,
                 .ffn = 2,
                 .shared_ffn = 7};
  EXPECT_EQ(parameters(m).total, 84 + 72 + 14 + 20 + 5 * 24 + 84);
  EXPECT_EQ(parameters(m).active, 84 + 72 + 14 + 20 + 24 + 84);
  EXPECT_EQ(flops_per_token(m, 8), 6 * (40 + 72 + 48 + 24 + 84));
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
  EXPECT_EQ(refusal({}), "model shape: expected vocab and hidden of at least 1");
}

}  // namespace
}  // namespace conclave::plan
