// Every gradient of every layer, in fp64, against finite differences of its own forward.
#include "nn/tape.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include "nn/attention.h"
#include "nn/experts.h"
#include "nn/layer_testing.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/router.h"

namespace conclave::nn {
namespace {

using namespace testing;

TEST(Tape, LinearWithBias) {
  Case c;
  Weight& w = c.weights.add("w.weight", {4, 3});
  Weight& b = c.weights.add("w.bias", {4});
  c.inputs = {random({5, 3}, 1)};
  c.run = [&](Tape& t, const auto& in) { return linear(t, in[0], w, &b); };
  c.fill();
  expect_gradients(c);
}

TEST(Tape, GradientOfTheBiasIsTheSumOverTokens) {
  Case c;
  Weight& w = c.weights.add("w.weight", {4, 3});
  Weight& b = c.weights.add("w.bias", {4});
  c.inputs = {random({5, 3}, 1)};
  c.run = [&](Tape& t, const auto& in) { return linear(t, in[0], w, &b); };
  c.fill();
  const auto g = c.gradients();
  const at::Tensor dy = random({5, 4}, 4);
  EXPECT_LT((b.grad().sub(dy.sum(0))).abs().max().item().toDouble(), 1e-14);
  EXPECT_LT((w.grad().sub(dy.t().matmul(c.inputs[0]))).abs().max().item().toDouble(), 1e-14);
  EXPECT_LT((g[0].sub(dy.matmul(w.data()))).abs().max().item().toDouble(), 1e-14);
}

TEST(Tape, Split) {
  Case c;
  c.inputs = {random({5, 6}, 1)};
  c.run = [&](Tape& t, const auto& in) {
    auto [left, right] = split(t, in[0], 2);
    EXPECT_EQ(left.data.sizes(), (std::vector<int64_t>{5, 2}));
    EXPECT_EQ(right.data.sizes(), (std::vector<int64_t>{5, 4}));
    auto [low, high] = split(t, right, 2);
    return add(t, add(t, left, low), left);
  };
  c.fill();
  expect_gradients(c);
}

TEST(Tape, RmsNorm) {
  Case c;
  Weight& w = c.weights.add("w.weight", {6});
  c.inputs = {random({5, 6}, 1)};
  c.run = [&](Tape& t, const auto& in) { return rms_norm(t, in[0], w, 1e-6); };
  c.fill();
  expect_gradients(c);
}

TEST(Tape, DenseSwiglu) {
  Case c;
  Weight& gate_up = c.weights.add_stack("{gate,up}.weight", {10, 4});
  Weight& down = c.weights.add("down.weight", {4, 5});
  c.inputs = {random({6, 4}, 1)};
  c.run = [&](Tape& t, const auto& in) {
    return add(t, in[0], dense_swiglu(t, in[0], gate_up, down));
  };
  c.fill();
  expect_gradients(c);
}

TEST(Tape, GroupedSwigluWithRoutingWeightsAndAnIdleExpert) {
  Case c;
  Weight& gate_up = c.weights.add_experts("{}.{gate,up}.weight", {3, 6, 4});
  Weight& down = c.weights.add_experts("{}.down.weight", {3, 4, 3});
  c.inputs = {random({7, 4}, 1), random({7}, 2)};
  c.run = [&](Tape& t, const auto& in) {
    const std::vector<int64_t> offsets{0, 2, 2, 7};
    return grouped_swiglu(t, {in[0], in[1], at::tensor(offsets, at::kLong)}, {gate_up, down});
  };
  c.fill();
  expect_gradients(c);
}

// Biases on both products, interleaved gate and up far enough out to be clamped; weights of any
// sign.
TEST(Tape, GroupedClampedSwigluWithBiasesAndAnIdleExpert) {
  Case c;
  Weight& gate_up = c.weights.add_experts("{}.gate_up.weight", {3, 6, 4});
  Weight& down = c.weights.add_experts("{}.down.weight", {3, 4, 3});
  Weight& gate_up_bias = c.experts.add("gate_up.bias", {3, 6}, {{"a", {3, 6}}}, Init::zeros, false);
  Weight& down_bias = c.experts.add("down.bias", {3, 4}, {{"b", {3, 4}}}, Init::zeros, false);
  c.inputs = {random({7, 4}, 1), random({7}, 2)};
  c.run = [&](Tape& t, const auto& in) {
    const std::vector<int64_t> offsets{0, 2, 2, 7};
    return grouped_swiglu(
        t, {in[0], in[1], at::tensor(offsets, at::kLong)},
        {gate_up, down, &gate_up_bias, &down_bias, ops::Activation::clamped_swiglu});
  };
  c.fill();
  gate_up_bias.data().mul_(9);
  expect_gradients(c);
}

// Value, and gradient of everything that reaches the logits, for each scoring.
void expect_router_gradients(RouterOptions o, bool biased) {
  for (bool renormalise : {true, false})
    for (double coef : {0.0, 0.3}) {
      Case c;
      Weight& w = c.weights.add("gate.weight", {6, 4});
      if (biased) o.bias = &c.weights.add("gate.bias", {6});
      c.inputs = {random({9, 4}, 1)};
      Rows rows;
      rows.row_offsets = {0, 4, 9};
      rows.doc_offsets = {0, 1, 4, 9};
      rows.aux_seed = 0.5;
      rows.token_seed = 0.1;
      o.renormalise = renormalise;
      o.aux_coef = o.sequence_aux_coef = o.z_coef = coef;
      c.run = [&](Tape& t, const auto& in) {
        Routed r = route(t, in[0], w, rows, o);
        EXPECT_EQ(r.loads.sum().item().toLong(), 9 * o.top_k);
        EXPECT_EQ(r.aux.defined(), coef != 0);
        c.extra = coef != 0 ? r.aux.item().toDouble() : 0;
        return r.weights;
      };
      c.fill();
      c.dense.data().mul_(3);
      SCOPED_TRACE(std::to_string(renormalise) + " " + std::to_string(coef));
      expect_gradients(c);
    }
}

TEST(Tape, RouterWithItsLosses) {
  expect_router_gradients({.top_k = 2}, false);
  expect_router_gradients({.scoring = Scoring::top_k_then_softmax, .top_k = 2}, true);
  expect_router_gradients({.scoring = Scoring::sigmoid, .top_k = 2, .scale = 2.5}, false);
  expect_router_gradients(
      {.scoring = Scoring::sigmoid, .top_k = 3, .scale = 2.5, .groups = 3, .top_groups = 2}, true);
}

TEST(Tape, HeadNormRotaryAndAttentionOverDocuments) {
  Case c;
  const int64_t tokens = 7, heads = 4, kv_heads = 2, head_dim = 4, hidden = 5;
  Weight& q = c.weights.add("q.weight", {heads * head_dim, hidden});
  Weight& k = c.weights.add("k.weight", {kv_heads * head_dim, hidden});
  Weight& v = c.weights.add("v.weight", {kv_heads * head_dim, hidden});
  Weight& o = c.weights.add("o.weight", {hidden, heads * head_dim});
  Weight& q_norm = c.weights.add("q_norm.weight", {head_dim});
  Weight& k_norm = c.weights.add("k_norm.weight", {head_dim});
  const auto table = ops::rotary_table(8, head_dim, {.theta = 100}, at::kDouble);
  Rows rows;
  rows.doc_offsets = {0, 3, 7};
  rows.positions = at::cat({at::arange(3, at::kLong), at::arange(4, at::kLong)});
  c.inputs = {random({tokens, hidden}, 1)};
  c.run = [&](Tape& t, const auto& in) {
    Value queries = linear(t, in[0], q, nullptr, "qkv"), keys = linear(t, in[0], k, nullptr, "qkv");
    auto [turned_q, turned_k] =
        head_norm_rotary(t, queries, keys, q_norm, k_norm, 1e-6, rows, table);
    Value values = linear(t, in[0], v, nullptr, "qkv");
    return linear(t, attention(t, turned_q, turned_k, values, rows, {.scale = 0.5}, 0), o);
  };
  c.fill();
  expect_gradients(c);
}

// One of the two need not be used.
TEST(Tape, HeadNormRotaryOfWhichOneGetsNoGradient) {
  for (bool keys : {false, true}) {
    SCOPED_TRACE(keys ? "keys" : "queries");
    Case c;
    const int64_t tokens = 5, head_dim = 4;
    Weight& q_norm = c.weights.add("q_norm.weight", {head_dim});
    Weight& k_norm = c.weights.add("k_norm.weight", {head_dim});
    const auto table = ops::rotary_table(8, head_dim, {.theta = 100}, at::kDouble);
    Rows rows;
    rows.doc_offsets = {0, tokens};
    rows.positions = at::arange(tokens, at::kLong);
    c.inputs = {random({tokens, 3 * head_dim}, 1), random({tokens, 2 * head_dim}, 2)};
    c.run = [=, &q_norm, &k_norm](Tape& t, const auto& in) {
      auto [q, k] = head_norm_rotary(t, in[0], in[1], q_norm, k_norm, 1e-6, rows, table);
      return keys ? k : q;
    };
    c.fill();
    expect_gradients(c);
  }
}

TEST(Tape, EmbeddingAddsUpRepeatedIds) {
  Case c;
  Weight& w = c.weights.add("w.weight", {4, 3});
  const std::vector<int64_t> ids{2, 0, 2, 3};
  c.run = [&](Tape& t, const auto&) { return embedding(t, at::tensor(ids, at::kLong), w); };
  c.fill();
  expect_gradients(c);
}

TEST(Tape, GradientsOfAValueThatIsUsedTwiceAddUp) {
  Tape tape;
  const Value x = tape.input(random({3}, 1));
  const Value y = add(tape, add(tape, x, x), x);
  tape.seed(y, at::ones({3}, at::kDouble));
  tape.run_backward();
  EXPECT_EQ(tape.take_grad(x).sum().item().toDouble(), 9);
  EXPECT_FALSE(tape.take_grad(x).defined());  // taken
}

TEST(Tape, DeferredWeightGradientsWaitForTheirCall) {
  Case c;
  Weight& w = c.weights.add("w.weight", {4, 3});
  c.fill();
  Tape tape;
  const Value y = linear(tape, tape.input(random({5, 3}, 1)), w);
  tape.seed(y, random({5, 4}, 4));
  tape.run_backward();
  EXPECT_TRUE(tape.has_weight_gradients());
  EXPECT_EQ(w.grad().abs().sum().item().toDouble(), 0);
  tape.run_weight_gradients();
  EXPECT_FALSE(tape.has_weight_gradients());
  EXPECT_GT(w.grad().abs().sum().item().toDouble(), 0);
}

TEST(Tape, CountsEachStorageOnceAndRecomputedClassesNotAtAll) {
  Case c;
  Weight& w = c.weights.add("w.weight", {4, 4});
  Weight& norm = c.weights.add("norm.weight", {4});
  c.fill();
  auto bytes = [&](bool recording, std::set<std::string> recompute) {
    Tape tape(recording, std::move(recompute));
    const Value n = rms_norm(tape, tape.input(random({5, 4}, 1)), norm, 1e-6);
    linear(tape, n, w);
    linear(tape, n, w);
    return tape.saved_bytes();
  };
  const std::map<std::string, int64_t> kept{{"norm", 160}, {"other", 160}, {"statistics", 40}};
  EXPECT_EQ(bytes(true, {}), kept);
  const std::map<std::string, int64_t> fewer{{"other", 160}, {"statistics", 40}};
  EXPECT_EQ(bytes(true, {"norm"}), fewer);
  EXPECT_TRUE(bytes(false, {}).empty());
}

}  // namespace
}  // namespace conclave::nn
