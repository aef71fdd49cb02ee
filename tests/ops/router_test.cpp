#include "ops/router.h"

#include <ATen/ops/bincount.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <set>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t tokens, experts, top_k;
};
constexpr Case kCases[] = {{0, 4, 2},    {1, 1, 1},    {7, 5, 5},
                           {130, 16, 4}, {300, 37, 3}, {65, 128, 8}};

Op ours(Case c, bool renormalise) {
  return [=](const Tensors& in) -> Tensors {  // logits, dweights, dprobs
    const SoftmaxTopK r = softmax_top_k(in[0], c.top_k, renormalise);
    return {r.weights, r.probs, r.ids, r.loads,
            softmax_top_k_backward(in[1], in[2], r.probs, r.ids, renormalise)};
  };
}

Op aten(Case c, bool renormalise) {
  return [=](const Tensors& in) -> Tensors {
    at::Tensor probs, weights, ids;
    const Tensors gradient = with_gradients(
        [&](const Tensors& x) -> Tensors {
          probs = at::softmax(x[0], -1);
          std::tie(weights, ids) = at::topk(probs, c.top_k);
          if (renormalise) weights = weights.div(weights.sum(at::IntArrayRef({-1}), true));
          at::Tensor total = weights.mul(in[1]).sum();
          return {in[2].defined() ? total.add(probs.mul(in[2]).sum()) : total};
        },
        {in[0]}, at::ones({}, in[0].options()));
    return {weights.detach(), probs.detach(), ids, at::bincount(ids.flatten(), {}, c.experts),
            gradient[1]};
  };
}

TEST(SoftmaxTopK, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : {at::kDouble, at::kFloat})
      for (bool renormalise : {false, true})
        for (bool elsewhere : {false, true}) {
          SCOPED_TRACE(::testing::Message() << c.tokens << " tokens, top " << c.top_k << " of "
                                            << c.experts << " " << dtype);
          const Tensors in = {normal({c.tokens, c.experts}, dtype, 1),
                              normal({c.tokens, c.top_k}, dtype, 2),
                              elsewhere ? normal({c.tokens, c.experts}, dtype, 3) : at::Tensor()};
          expect_as_good_as_aten(ours(c, renormalise), aten(c, renormalise), in);
          expect_same_bits_on_any_threads([&] { return ours(c, renormalise)(in); });
        }
}

TEST(SoftmaxTopK, PrefersTheLowerIdOnATie) {
  const at::Tensor logits =
      at::tensor(std::vector<float>{1, 2, 2, 0, 2, 1, 1, 1, 1, 1}).view({2, 5});
  const SoftmaxTopK r = softmax_top_k(logits, 4, true);
  EXPECT_TRUE(
      same_bits(r.ids, at::tensor(std::vector<int64_t>{1, 2, 4, 0, 0, 1, 2, 3}).view({2, 4})));
}

TEST(SoftmaxTopK, KeepsIdsInRangeAndDistinctForNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              inf = std::numeric_limits<float>::infinity();
  const at::Tensor logits =
      at::tensor(std::vector<float>{nan, nan, nan, nan, 1, nan, 3, inf, -inf, -inf, -inf, -inf})
          .view({3, 4});
  const SoftmaxTopK r = softmax_top_k(logits, 3, true);
  for (int64_t t = 0; t < 3; ++t) {
    std::set<int64_t> seen;
    for (int64_t j = 0; j < 3; ++j) seen.insert(r.ids.const_data_ptr<int64_t>()[t * 3 + j]);
    EXPECT_EQ(seen.size(), 3u);
    EXPECT_GE(*seen.begin(), 0);
    EXPECT_LT(*seen.rbegin(), 4);
  }
}

TEST(BalanceLoss, EqualsItsFormulaAndGradient) {
  constexpr double kCoef = 0.01;
  for (auto dtype : {at::kDouble, at::kFloat})
    for (const std::vector<int64_t>& rows : {std::vector<int64_t>{0, 130}, {0, 40, 40, 127, 130}}) {
      const at::Tensor probs = at::softmax(normal({130, 12}, dtype, 1), -1),
                       ids = std::get<1>(at::topk(probs, 3));
      auto ours = [&](const Tensors& in) -> Tensors {
        const BalanceLoss b = balance_loss(in[0], ids, rows, kCoef);
        return {at::scalar_tensor(b.loss, at::kDouble), b.dprobs};
      };
      auto aten = [&](const Tensors& in) -> Tensors {
        return with_gradients(
            [&](const Tensors& x) -> Tensors {
              at::Tensor loss = at::zeros({}, x[0].options());
              for (size_t r = 0; r + 1 < rows.size(); ++r) {
                const double length = double(rows[r + 1] - rows[r]);
                if (length == 0) continue;
                const at::Tensor loads =
                    at::bincount(ids.slice(0, rows[r], rows[r + 1]).flatten(), {}, 12)
                        .to(x[0].scalar_type());
                const at::Tensor sums =
                    x[0].slice(0, rows[r], rows[r + 1]).sum(at::IntArrayRef({0}));
                loss = loss.add(loads.mul(sums).sum().mul(kCoef * 12 / (3 * length * length)));
              }
              return {loss};
            },
            in, at::ones({}, in[0].options()));
      };
      expect_as_good_as_aten(ours, aten, {probs});
      expect_same_bits_on_any_threads([&] { return ours({probs}); });
    }
}

TEST(BalanceLoss, IsTheCoefficientWhenLoadsAreEven) {
  const at::Tensor probs = at::zeros({8, 4}, at::kDouble).fill_(0.25);
  const at::Tensor ids =
      at::tensor(std::vector<int64_t>{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}).view({8, 2});
  EXPECT_NEAR(balance_loss(probs, ids, std::vector<int64_t>{0, 8}, 0.5).loss, 0.5, 1e-15);
}

}  // namespace
}  // namespace conclave::ops
