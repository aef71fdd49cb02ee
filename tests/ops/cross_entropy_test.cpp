#include "ops/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {

using testing::Tensors;

constexpr double kSeed = 1.0 / 77;

struct Case {
  int64_t tokens, hidden, vocab, max_logits;
};

// One chunk, many, one token a chunk; more columns of tiles than rows; vocabularies and widths that
// are no multiples of a vector.
std::vector<Case> cases() {
  return {{1, 8, 2, 1 << 22},       {0, 8, 16, 1 << 22},      {77, 20, 33, 1 << 22},
          {300, 48, 1000, 1 << 22}, {300, 48, 1000, 40000},   {5, 16, 50, 1},
          {40, 136, 5000, 1 << 22}, {140, 24, 4100, 1 << 22}, {3, 8, 151936, 0},
          {2, 4, 70001, 0}};
}

// {x, w, labels}; every fifth token is not scored.
Tensors inputs(const Case& c, at::ScalarType dtype) {
  at::Tensor labels = (at::arange(c.tokens, at::kLong) * 7919).remainder(c.vocab);
  labels.slice(0, 2, std::max<int64_t>(c.tokens, 2), 5).fill_(kIgnore);
  return {testing::normal({c.tokens, c.hidden}, dtype, 1),
          testing::normal({c.vocab, c.hidden}, dtype, 2), labels};
}

// {loss, dx, dw}, the gradients those of kSeed · loss with libtorch's autograd.
Tensors aten_loss(const Tensors& in) {
  const at::Tensor labels = in[2];
  auto forward = [&](const Tensors& in) -> Tensors {
    const at::Tensor log_p = at::matmul(in[0], in[1].t()).log_softmax(-1);
    const at::Tensor of_label = log_p.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1);
    return {-(of_label * labels.ne(kIgnore)).sum().view({1})};
  };
  return testing::with_gradients(forward, {in[0], in[1]}, at::full({1}, kSeed, at::kDouble));
}

struct LinearCrossEntropyOp : testing::EachDevice {};
ON_EACH_DEVICE(LinearCrossEntropyOp);

Tensors our_loss(const Case& c, const Tensors& in) {
  const at::ScalarType wide = testing::wide(in[0].scalar_type());
  at::Tensor dw = at::zeros(in[1].sizes(), in[1].options().dtype(wide));
  const auto result = linear_cross_entropy(in[0], in[1], in[2], kSeed, dw, c.max_logits);
  EXPECT_EQ(result.scored, in[2].ne(kIgnore).sum().item().toLong());
  return {at::full({1}, result.loss_sum, wide), result.dx, dw};
}

TEST_P(LinearCrossEntropyOp, EqualsAtenInValueAndGradient) {
  for (const Case& c : cases())
    for (auto dtype : testing::kTypes) {
      SCOPED_TRACE(std::to_string(c.tokens) + " tokens, vocabulary " + std::to_string(c.vocab));
      testing::expect_as_good_as_aten(here([&](const Tensors& in) { return our_loss(c, in); }),
                                      aten_loss, inputs(c, dtype));
    }
}

TEST_P(LinearCrossEntropyOp, AddsToTheWeightGradientAndLeavesUnscoredRowsZero) {
  const Case c{60, 16, 40, 400};
  const Tensors in = inputs(c, at::kDouble);
  const Tensors got = here([&](const Tensors& in) -> Tensors {
    const at::Tensor once = our_loss(c, in)[2];
    at::Tensor dw = once.clone();
    return {once, linear_cross_entropy(in[0], in[1], in[2], kSeed, dw, c.max_logits).dx, dw};
  })(in);
  const at::Tensor dx = got[1];
  EXPECT_LE(testing::distance(got[2], got[0] * 2), 1e-14);
  EXPECT_EQ(dx.masked_select(in[2].eq(kIgnore).unsqueeze(1)).abs().sum().item().toDouble(), 0);
}

TEST_P(LinearCrossEntropyOp, WithoutGradientGivesTheSameLoss) {
  const Case c{60, 16, 40, 400};
  const Tensors in = inputs(c, at::kDouble);
  const at::Tensor x = here(in[0]), w = here(in[1]), labels = here(in[2]);
  const auto result = linear_cross_entropy(x, w, labels, kSeed, {}, c.max_logits);
  EXPECT_EQ(result.loss_sum, our_loss(c, {x, w, labels})[0].item().toDouble());
  EXPECT_FALSE(result.dx.defined());
}

// Without the host: the loss is added to what is there, the gradients are the same.
TEST_P(LinearCrossEntropyOp, AddsTheLossToATensorOnTheDevice) {
  for (auto dtype : testing::kTypes) {
    const Case c{300, 48, 1000, 40000};
    const Tensors got = here([&](const Tensors& in) -> Tensors {
      const auto wide = in[0].options().dtype(testing::wide(dtype));
      at::Tensor dw = at::zeros(in[1].sizes(), wide), other_dw = at::zeros_like(dw);
      at::Tensor sum = at::full({1}, 5, wide.dtype(at::kDouble));
      const at::Tensor dx =
          linear_cross_entropy_(sum, in[0], in[1], in[2], kSeed, dw, c.max_logits);
      const auto other = linear_cross_entropy(in[0], in[1], in[2], kSeed, other_dw, c.max_logits);
      EXPECT_NEAR(sum.item().toDouble(), other.loss_sum + 5, 1e-10);
      return {dx, other.dx, dw, other_dw};
    })(inputs(c, dtype));
    EXPECT_TRUE(testing::same_bits(got[0], got[1]));
    EXPECT_TRUE(testing::same_bits(got[2], got[3]));
  }
}

TEST_P(LinearCrossEntropyOp, LargeLogitsDoNotOverflow) {
  const Case c{9, 16, 40, 400};
  Tensors in = inputs(c, at::kFloat);
  in[0] *= 1000;
  testing::expect_as_good_as_aten(here([&](const Tensors& in) { return our_loss(c, in); }),
                                  aten_loss, in);
}

TEST_P(LinearCrossEntropyOp, BitsDoNotDependOnThreads) {
  for (const Case& c : cases())
    for (auto dtype : testing::kTypes) {
      SCOPED_TRACE(std::to_string(c.tokens) + " tokens, vocabulary " + std::to_string(c.vocab));
      const Tensors in = inputs(c, dtype);
      testing::expect_same_bits_on_any_threads(
          [&] { return here([&](const Tensors& in) { return our_loss(c, in); })(in); });
    }
}

TEST(LinearCrossEntropy, NamesTheLabelThatIsOutside) {
  const Case c{6, 8, 10, 400};
  for (int64_t bad : {10, -1, -101}) {
    Tensors in = inputs(c, at::kFloat);
    in[2][4] = bad;
    testing::expect_error(
        [&] { linear_cross_entropy(in[0], in[1], in[2], kSeed, {}, c.max_logits); },
        "labels[4]: expected 0 … 9 or -100 (not scored), got " + std::to_string(bad));
  }
}

}  // namespace
}  // namespace conclave::ops
