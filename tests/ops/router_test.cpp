#include "ops/router.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <limits>
#include <set>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;
using enum Scoring;

struct Case {
  int64_t tokens, experts;
  Selection s;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (auto [tokens, experts, top_k] : {std::array<int64_t, 3>{0, 4, 2},
                                        {1, 1, 1},
                                        {7, 5, 5},
                                        {130, 16, 4},
                                        {300, 37, 3},
                                        {65, 128, 8}})
    for (auto scoring : {softmax_then_top_k, top_k_then_softmax, sigmoid})
      for (bool renormalise : {false, true}) {
        if (scoring == top_k_then_softmax && !renormalise) continue;
        all.push_back(
            {tokens, experts, {.scoring = scoring, .top_k = top_k, .renormalise = renormalise}});
      }
  for (auto [groups, top_groups] : {std::pair<int64_t, int64_t>{4, 2}, {8, 4}, {4, 4}, {8, 1}})
    all.push_back({90,
                   32,
                   {.scoring = sigmoid,
                    .top_k = 4,
                    .scale = 2.5,
                    .groups = groups,
                    .top_groups = top_groups}});
  all.push_back({50, 12, {.scoring = softmax_then_top_k, .top_k = 3, .scale = 0.5}});
  return all;
}

std::string name(const Case& c) {
  return std::to_string(c.tokens) + " tokens, top " + std::to_string(c.s.top_k) + " of " +
         std::to_string(c.experts) + ", scoring " + std::to_string(static_cast<int>(c.s.scoring)) +
         (c.s.renormalise ? ", renormalised" : "") + ", " + std::to_string(c.s.top_groups) +
         " of " + std::to_string(c.s.groups) + " groups";
}

// in: logits, dweights, dprobs or none, correction bias or none.
Op ours(Case c) {
  return [=](const Tensors& in) -> Tensors {
    const Routing r = route(in[0], in[3], c.s);
    return {r.weights, r.ids, r.loads, route_backward(in[1], in[2], in[0], r.ids, c.s)};
  };
}

// What transformers' routers do, word for word in its order; the choice from detached scores.
at::Tensor reference_choice(const Case& c, const at::Tensor& logits, const at::Tensor& bias) {
  const Selection& s = c.s;
  if (s.scoring == softmax_then_top_k)
    return std::get<1>(at::topk(at::softmax(logits, -1), s.top_k));
  if (s.scoring == top_k_then_softmax) return std::get<1>(at::topk(logits, s.top_k));
  at::Tensor scores = at::sigmoid(logits);
  if (bias.defined()) scores = scores.add(bias);
  if (s.groups > 1) {
    const at::Tensor sums = std::get<0>(at::topk(scores.view({c.tokens, s.groups, -1}), 2, -1))
                                .sum(at::IntArrayRef({-1}));
    const at::Tensor best = std::get<1>(at::topk(sums, s.top_groups, -1));
    const at::Tensor mask = at::zeros({c.tokens, s.groups}, at::kBool)
                                .scatter_(1, best, true)
                                .unsqueeze(-1)
                                .expand({c.tokens, s.groups, c.experts / s.groups})
                                .reshape({c.tokens, c.experts});
    scores = scores.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
  }
  return std::get<1>(at::topk(scores, s.top_k));
}

Op aten(Case c) {
  return [=](const Tensors& in) -> Tensors {
    const at::Tensor ids = reference_choice(c, in[0], in[3]);
    at::Tensor weights;
    const Tensors gradient = with_gradients(
        [&](const Tensors& x) -> Tensors {
          at::Tensor probs = at::softmax(x[0], -1);
          if (c.s.scoring == softmax_then_top_k) weights = probs.gather(1, ids);
          if (c.s.scoring == top_k_then_softmax) weights = at::softmax(x[0].gather(1, ids), -1);
          if (c.s.scoring == sigmoid) {
            const at::Tensor scores = at::sigmoid(x[0]);
            probs = scores.div(scores.sum(at::IntArrayRef({-1}), true).add(1e-20));
            weights = scores.gather(1, ids);
          }
          if (c.s.scoring != top_k_then_softmax && c.s.renormalise)
            weights = weights.div(
                weights.sum(at::IntArrayRef({-1}), true).add(c.s.scoring == sigmoid ? 1e-20 : 0.0));
          weights = weights.mul(c.s.scale);
          at::Tensor total = weights.mul(in[1]).sum();
          return {in[2].defined() ? total.add(probs.mul(in[2]).sum()) : total};
        },
        {in[0]}, at::ones({}, in[0].options()));
    return {weights.detach(), ids, at::bincount(ids.flatten(), {}, c.experts), gradient[1]};
  };
}

TEST(Route, EqualsAtenInValueAndGradient) {
  for (const Case& c : cases())
    for (auto dtype : {at::kDouble, at::kFloat})
      for (bool elsewhere : {false, true}) {
        SCOPED_TRACE(::testing::Message() << name(c) << " " << dtype);
        const Tensors in = {
            normal({c.tokens, c.experts}, dtype, 1), normal({c.tokens, c.s.top_k}, dtype, 2),
            elsewhere ? normal({c.tokens, c.experts}, dtype, 3) : at::Tensor(),
            elsewhere && c.s.scoring == sigmoid ? normal({c.experts}, dtype, 4).mul_(0.3)
                                                : at::Tensor()};
        expect_as_good_as_aten(ours(c), aten(c), in);
        expect_same_bits_on_any_threads([&] { return ours(c)(in); });
      }
}

at::Tensor row(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble).view({1, static_cast<int64_t>(values.size())});
}

void expect_ids(const Routing& r, const std::vector<int64_t>& want) {
  EXPECT_TRUE(same_bits(r.ids.flatten(), at::tensor(want, at::kLong))) << r.ids;
}

// The two best groups' scores are below 0 with their bias: zeros in the place of the others' scores
// would win.
TEST(Route, TrapMaskedGroupsTakeMinusInfinityNotZero) {
  const Selection s{.scoring = sigmoid, .top_k = 3, .groups = 3, .top_groups = 2};
  const at::Tensor logits = row({0, 0.1, 0.2, 0.3, 0.4, 0.5}),
                   bias = at::tensor({-3.0, -2.0, -9.0, -9.0, -1.0, -4.0}, at::kDouble);
  expect_ids(route(logits, bias, s), {4, 1, 0});
  expect_ids(route(logits, bias.sub(10), s), {4, 1, 0});
}

TEST(Route, WeightsAreTheUnbiasedScores) {
  const Selection s{.scoring = sigmoid, .top_k = 2, .renormalise = false};
  const at::Tensor logits = row({1, 2, 3, 4}),
                   bias = at::tensor({5.0, -4.0, 0.0, 1.0}, at::kDouble);
  const Routing r = route(logits, bias, s);
  expect_ids(r, {0, 3});
  EXPECT_LE(distance(r.weights, at::sigmoid(row({1, 4}))), 1e-15);
}

TEST(Route, PrefersTheLowerIdOnATie) {
  const at::Tensor logits =
      at::tensor(std::vector<float>{1, 2, 2, 0, 2, 1, 1, 1, 1, 1}).view({2, 5});
  for (auto scoring : {softmax_then_top_k, top_k_then_softmax, sigmoid})
    expect_ids(route(logits, {}, {.scoring = scoring, .top_k = 4}), {1, 2, 4, 0, 0, 1, 2, 3});
  // Of groups too, and across them.
  expect_ids(route(row({0, 1, 1, 0, 0, 1, 1, 0}), {},
                   {.scoring = sigmoid, .top_k = 3, .groups = 4, .top_groups = 2}),
             {1, 2, 0});
  expect_ids(route(row({0, 0, 1, 1, 0, 0, 1, 1}), {},
                   {.scoring = sigmoid, .top_k = 3, .groups = 4, .top_groups = 3}),
             {2, 3, 6});
}

TEST(Route, KeepsIdsInRangeAndDistinctForNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              inf = std::numeric_limits<float>::infinity();
  const at::Tensor logits =
      at::tensor(std::vector<float>{nan, nan, nan, nan, 1, nan, 3, inf, -inf, -inf, -inf, -inf})
          .view({3, 4});
  for (const Selection& s :
       {Selection{.top_k = 3}, Selection{.scoring = top_k_then_softmax, .top_k = 3},
        Selection{.scoring = sigmoid, .top_k = 3},
        Selection{.scoring = sigmoid, .top_k = 2, .groups = 2, .top_groups = 1}}) {
    const Routing r = route(logits, {}, s);
    for (int64_t t = 0; t < 3; ++t) {
      const int64_t* ids = r.ids.const_data_ptr<int64_t>() + t * s.top_k;
      const std::set<int64_t> seen(ids, ids + s.top_k);
      EXPECT_EQ(static_cast<int64_t>(seen.size()), s.top_k);
      EXPECT_GE(*seen.begin(), 0);
      EXPECT_LT(*seen.rbegin(), 4);
    }
  }
}

TEST(Route, AnExpertWithoutATokenAndOneWithAll) {
  for (auto scoring : {softmax_then_top_k, top_k_then_softmax, sigmoid}) {
    at::Tensor logits = normal({40, 6}, at::kDouble, 1);
    logits.select(1, 2).fill_(-9);
    logits.select(1, 4).fill_(9);
    const Selection s{.scoring = scoring, .top_k = 2};
    const Routing r = route(logits, {}, s);
    EXPECT_EQ(r.loads[2].item().toLong(), 0);
    EXPECT_EQ(r.loads[4].item().toLong(), 40);
    EXPECT_EQ(r.loads.sum().item().toLong(), 80);
    const at::Tensor d = route_backward(normal({40, 2}, at::kDouble, 2), {}, logits, r.ids, s);
    EXPECT_TRUE(d.isfinite().all().item().toBool());
    EXPECT_TRUE(same_bits(d.select(1, 2).contiguous(), at::zeros({40}, at::kDouble)));
    const Routing one = route(logits, {}, {.scoring = scoring, .top_k = 1});
    EXPECT_TRUE(same_bits(one.ids, at::full({40, 1}, 4, at::kLong)));
    EXPECT_EQ(one.loads[4].item().toLong(), 40);
  }
}

// Renormalised weights do not hear of an expert that was not chosen. Through a softmax over all and
// its sum, what should cancel stays as rounding, of which AdamW makes whole steps of that expert's
// row of the router.
TEST(Route, ExpertsNotChosenHaveNoGradientAtAll) {
  const at::Tensor logits = normal({50, 12}, at::kFloat, 1);
  for (auto scoring : {softmax_then_top_k, top_k_then_softmax, sigmoid})
    for (int64_t top_k : {1, 3}) {
      const Selection s{.scoring = scoring, .top_k = top_k};
      const Routing r = route(logits, {}, s);
      const at::Tensor d = route_backward(normal({50, top_k}, at::kFloat, 2), {}, logits, r.ids, s);
      EXPECT_TRUE(same_bits(d.scatter(1, r.ids, 0), at::zeros_like(d)));
      if (top_k > 1) EXPECT_GT(d.gather(1, r.ids).abs().min().item().toDouble(), 0);
    }
}

TEST(Route, AllExpertsChosenHaveTheScoresThemselves) {
  const at::Tensor logits = normal({9, 5}, at::kDouble, 1);
  for (auto scoring : {softmax_then_top_k, top_k_then_softmax}) {
    const Routing r = route(logits, {}, {.scoring = scoring, .top_k = 5});
    EXPECT_LE(distance(at::zeros({9, 5}, at::kDouble).scatter_(1, r.ids, r.weights),
                       at::softmax(logits, -1)),
              1e-15);
    EXPECT_TRUE(same_bits(r.loads, at::full({5}, 9, at::kLong)));
  }
}

TEST(Route, GivenIdsReplaceTheChoiceAndNothingElse) {
  for (const Case& c : cases()) {
    if (c.tokens == 0) continue;
    SCOPED_TRACE(name(c));
    const at::Tensor logits = normal({c.tokens, c.experts}, at::kFloat, 1),
                     bias =
                         c.s.scoring == sigmoid ? normal({c.experts}, at::kFloat, 2) : at::Tensor();
    const Routing chosen = route(logits, bias, c.s), again = route(logits, bias, c.s, chosen.ids);
    EXPECT_TRUE(same_bits(chosen.ids, again.ids));
    EXPECT_TRUE(same_bits(chosen.weights, again.weights));
    EXPECT_TRUE(same_bits(chosen.loads, again.loads));
    // In another order: the same weights in that order.
    const Routing turned = route(logits, bias, c.s, chosen.ids.flip(1).contiguous());
    EXPECT_LE(distance(turned.weights, chosen.weights.flip(1)), 1e-6);
  }
  expect_error(
      [] {
        route(row({1, 2}), {}, {}, at::full({1, 1}, 2, at::kLong));
      },
      "ids: expected 0 … 1, got 2");
  expect_error([] { route(row({1, 2}), {}, {}, at::full({1, 2}, 1, at::kLong)); }, "given");
}

TEST(Route, RefusesWhatDoesNotGoTogether) {
  const at::Tensor logits = normal({3, 8}, at::kFloat, 1), bias = normal({8}, at::kFloat, 2);
  auto refused = [&](const Selection& s, const char* part, const at::Tensor& b = {}) {
    expect_error([&] { route(logits, b, s); }, part);
  };
  refused({.top_k = 9}, "top_k: expected 1 … 8, got 9");
  refused({.groups = 2}, "groups: expected 1 without sigmoid");
  refused({.scoring = sigmoid, .groups = 3}, "equal ones");
  refused({.scoring = sigmoid, .groups = 8}, "equal ones of at least 2");
  refused({.scoring = sigmoid, .groups = 2, .top_groups = 3},
          "top_groups: expected 1 … groups = 2");
  refused({.scoring = sigmoid, .top_k = 5, .groups = 2}, "top_k: expected at most the 4 experts");
  refused({}, "correction_bias: expected none", bias);
  refused({.scoring = sigmoid}, "correction_bias", bias.to(at::kBFloat16));
}

TEST(BalancedIds, AreThoseOfTheBenchmark) {
  EXPECT_TRUE(same_bits(balanced_ids(4, 3, 5),
                        at::tensor({0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1}, at::kLong).view({4, 3})));
}

TEST(UniformIds, AreDistinctEvenAndOfTheirTokenAlone) {
  const int64_t tokens = 6000, experts = 12;
  for (int64_t top_k : {1, 5, 12}) {
    const at::Tensor ids = uniform_ids(tokens, top_k, experts, 7, 3);
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t* mine = ids.const_data_ptr<int64_t>() + t * top_k;
      ASSERT_EQ(static_cast<int64_t>(std::set<int64_t>(mine, mine + top_k).size()), top_k);
    }
    // Mean 500 · top_k, deviation below 23 · √top_k.
    const at::Tensor loads = loads_of(ids, experts);
    EXPECT_LE(distance(loads, at::full({experts}, 500 * top_k, at::kLong)),
              110 * std::sqrt(double(top_k)));
    EXPECT_TRUE(same_bits(uniform_ids(10, top_k, experts, 7, 3), ids.narrow(0, 0, 10)));
    expect_same_bits_on_any_threads(
        [&] { return Tensors{uniform_ids(tokens, top_k, experts, 7, 3)}; });
  }
  EXPECT_FALSE(same_bits(uniform_ids(50, 2, 12, 7, 3), uniform_ids(50, 2, 12, 8, 3)));
  EXPECT_FALSE(same_bits(uniform_ids(50, 2, 12, 7, 3), uniform_ids(50, 2, 12, 7, 4)));
}

}  // namespace
}  // namespace conclave::ops
