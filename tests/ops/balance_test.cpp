#include "ops/balance.h"

#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

TEST(BalanceProbs, AreSoftmaxOrNormalisedSigmoid) {
  for (auto dtype : {at::kDouble, at::kFloat})
    for (auto scoring :
         {Scoring::softmax_then_top_k, Scoring::top_k_then_softmax, Scoring::sigmoid}) {
      auto ours = [&](const Tensors& in) -> Tensors { return {balance_probs(in[0], scoring)}; };
      auto aten = [&](const Tensors& in) -> Tensors {
        if (scoring != Scoring::sigmoid) return {at::softmax(in[0], -1)};
        const at::Tensor s = at::sigmoid(in[0]);
        return {s.div(s.sum(at::IntArrayRef({-1}), true).add(1e-20))};
      };
      for (int64_t tokens : {0, 1, 70})
        expect_as_good_as_aten(ours, aten, {normal({tokens, 37}, dtype, 1)});
    }
}

// Σ over groups of coef · weight · E/(k·T²) · Σ load · Σ probs, as libtorch differentiates it.
at::Tensor formula(const at::Tensor& probs, const at::Tensor& ids,
                   const std::vector<int64_t>& offsets, double coef, GroupWeight weight) {
  const int64_t experts = probs.size(1);
  at::Tensor loss = at::zeros({}, probs.options());
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    const double length = double(offsets[g + 1] - offsets[g]);
    if (length == 0) continue;
    const at::Tensor loads =
        at::bincount(ids.slice(0, offsets[g], offsets[g + 1]).flatten(), {}, experts)
            .to(probs.scalar_type());
    const at::Tensor sums = probs.slice(0, offsets[g], offsets[g + 1]).sum(at::IntArrayRef({0}));
    const double scale = coef * double(experts) / (double(ids.size(1)) * length * length) *
                         (weight == GroupWeight::length ? length : 1);
    loss = loss.add(loads.mul(sums).sum().mul(scale));
  }
  return loss;
}

TEST(BalanceLoss, EqualsItsFormulaAndGradient) {
  constexpr double kCoef = 0.01;
  for (auto dtype : {at::kDouble, at::kFloat})
    for (auto weight : {GroupWeight::one, GroupWeight::length})
      for (const std::vector<int64_t>& offsets :
           {std::vector<int64_t>{0, 130}, {0, 40, 40, 127, 130}, {0, 1, 130}}) {
        const at::Tensor probs = at::softmax(normal({130, 12}, dtype, 1), -1),
                         ids = std::get<1>(at::topk(probs, 3));
        auto ours = [&](const Tensors& in) -> Tensors {
          const BalanceLoss b = balance_loss(in[0], ids, offsets, kCoef, weight);
          return {b.loss, b.dprobs};
        };
        auto aten = [&](const Tensors& in) -> Tensors {
          return with_gradients(
              [&](const Tensors& x) -> Tensors {
                return {formula(x[0], ids, offsets, kCoef, weight)};
              },
              in, at::ones({}, in[0].options()));
        };
        expect_as_good_as_aten(ours, aten, {probs});
        expect_same_bits_on_any_threads([&] { return ours({probs}); });
      }
}

TEST(BalanceLoss, IsTheCoefficientWhenLoadsAreEven) {
  const at::Tensor probs = at::full({8, 4}, 0.25, at::kDouble);
  const at::Tensor ids =
      at::tensor(std::vector<int64_t>{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}).view({8, 2});
  const std::vector<int64_t> row{0, 8};
  EXPECT_NEAR(balance_loss(probs, ids, row, 0.5, GroupWeight::one).loss.item().toDouble(), 0.5,
              1e-15);
  // A mean over tokens, when the coefficient is divided by them.
  EXPECT_NEAR(balance_loss(probs, ids, row, 0.5 / 8, GroupWeight::length).loss.item().toDouble(),
              0.5, 1e-15);
}

TEST(ZLoss, EqualsAtenInValueAndGradient) {
  for (auto dtype : {at::kDouble, at::kFloat})
    for (auto [tokens, experts] : {std::pair<int64_t, int64_t>{0, 4}, {1, 1}, {70, 37}}) {
      auto ours = [&](const Tensors& in) -> Tensors {
        const ZLoss z = z_loss(in[0], 0.3);
        return {z.loss, z.dlogits};
      };
      auto aten = [&](const Tensors& in) -> Tensors {
        return with_gradients(
            [&](const Tensors& x) -> Tensors {
              return {at::logsumexp(x[0], at::IntArrayRef({-1})).square().sum().mul(0.3)};
            },
            in, at::ones({}, in[0].options()));
      };
      const Tensors in = {normal({tokens, experts}, dtype, 1).mul_(5)};
      expect_as_good_as_aten(ours, aten, in);
      expect_same_bits_on_any_threads([&] { return ours(in); });
    }
}

TEST(ZLoss, LargeLogitsDoNotOverflow) {
  const ZLoss z = z_loss(at::full({1, 4}, 1000, at::kFloat), 1);
  const double log_sum = 1000 + std::log(4.0);
  EXPECT_NEAR(z.loss.item().toDouble(), log_sum * log_sum, 1);
  EXPECT_LE(distance(z.dlogits, at::full({1, 4}, log_sum / 2, at::kFloat)), 1e-3);
}

// Whole rows, and so whole documents, go to one micro-batch or another: losses add up and gradients
// are those of the rows, for each of the losses.
TEST(BalanceLoss, TheCutIntoMicroBatchesDoesNotMatter) {
  const at::Tensor logits = normal({24, 6}, at::kDouble, 1);
  const std::vector<int64_t> rows{0, 8, 16, 24}, docs{0, 3, 8, 9, 16, 18, 23, 24};
  auto all = [&](const std::vector<int64_t>& cuts) {
    double loss[3] = {};
    Tensors gradients[3];
    for (size_t c = 0; c + 1 < cuts.size(); ++c) {
      const int64_t begin = cuts[c], end = cuts[c + 1];
      const at::Tensor mine = logits.slice(0, begin, end).contiguous(),
                       probs = balance_probs(mine, Scoring::sigmoid);
      const at::Tensor ids = route(mine, {}, {.scoring = Scoring::sigmoid, .top_k = 2}).ids;
      auto within = [&](const std::vector<int64_t>& offsets) {
        std::vector<int64_t> out;
        for (int64_t o : offsets)
          if (o >= begin && o <= end) out.push_back(o - begin);
        return out;
      };
      const BalanceLoss row = balance_loss(probs, ids, within(rows), 0.3 / 3, GroupWeight::one),
                        doc = balance_loss(probs, ids, within(docs), 0.2 / 24, GroupWeight::length);
      const ZLoss z = z_loss(mine, 0.1 / 24);
      loss[0] += row.loss.item().toDouble(), gradients[0].push_back(row.dprobs);
      loss[1] += doc.loss.item().toDouble(), gradients[1].push_back(doc.dprobs);
      loss[2] += z.loss.item().toDouble(), gradients[2].push_back(z.dlogits);
    }
    return Tensors{at::tensor({loss[0], loss[1], loss[2]}, at::kDouble), at::cat(gradients[0]),
                   at::cat(gradients[1]), at::cat(gradients[2])};
  };
  const Tensors whole = all({0, 24});
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{0, 8, 24}, {0, 8, 16, 24}, {0, 16, 24}}) {
    const Tensors parts = all(cuts);
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_LE(distance(parts[i], whole[i]), 1e-12) << i;
  }
}

TEST(CorrectBias, MovesByTheRateTowardsTheMeanLoad) {
  const at::Tensor loads = at::tensor({7, 3, 5, 5, 0, 10}, at::kLong);  // mean 5
  for (auto dtype : {at::kFloat, at::kDouble}) {
    at::Tensor bias = at::tensor({0.5, -1.0, 0.25, 0.0, 2.0, -0.5}, at::kDouble).to(dtype);
    const at::Tensor rate = at::full({6}, 1e-3, dtype);
    const at::Tensor want = bias.add(rate.mul(at::tensor({-1, 1, 0, 0, 1, -1}, dtype)));
    correct_bias_(bias, loads, 1e-3);
    EXPECT_TRUE(same_bits(bias, want));
  }
  // One pair of 3 · 10¹⁵ away from the mean, which no fp64 mean would see.
  at::Tensor bias = at::zeros({3}, at::kDouble);
  const int64_t n = 3'000'000'000'000'001;
  correct_bias_(bias, at::tensor({n, n, n + 1}, at::kLong), 1);
  EXPECT_TRUE(same_bits(bias, at::tensor({1.0, 1.0, -1.0}, at::kDouble)));
}

}  // namespace
}  // namespace conclave::ops
