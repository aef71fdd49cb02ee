#include "ops/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {

using testing::Tensors;

constexpr double kSeed = 1.0 / 77, kLargest = 4;  // of normal numbers, about

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
  // On CUDA the logits are of x's type, so the loss is no better; see LossIsThatOfTheLogits.
  return {at::full({1}, result.loss_sum, in[0].is_cuda() ? in[0].scalar_type() : wide), result.dx,
          dw};
}

TEST_P(LinearCrossEntropyOp, EqualsAtenInValueAndGradient) {
  for (const Case& c : cases())
    for (auto dtype : testing::kTypes) {
      SCOPED_TRACE(std::to_string(c.tokens) + " tokens, vocabulary " + std::to_string(c.vocab));
      // A gradient is kSeed · (p − 1) times an operand: where p is nearly 1 it is small, and its
      // error that of 1.
      testing::expect_as_good_as_aten(here([&](const Tensors& in) { return our_loss(c, in); }),
                                      aten_loss, inputs(c, dtype), 64, kSeed * kLargest);
    }
}

// Beyond the logits' own rounding nothing is lost: long rows, whose packs are in shared memory, in
// registers and beyond both, and more rows than blocks; every seventh is not scored.
TEST_P(LinearCrossEntropyOp, LossIsThatOfTheLogits) {
  for (const Case& c : {Case{300, 8, 70000, 0},
                        {150, 8, 151936, 0},
                        {140, 8, 201088, 0},
                        {135, 8, 260096, 0},
                        {40, 8, 999, 0}})
    for (auto dtype : {at::kFloat, at::kBFloat16}) {
      if (!on_cuda() && c.vocab > 1000) continue;  // the CPU's logits are never rounded
      SCOPED_TRACE(::testing::Message() << c.tokens << " x " << c.vocab << " " << dtype);
      Tensors in = inputs(c, dtype);
      in[2].slice(0, 0, c.tokens, 7).fill_(kIgnore);
      const Tensors got = here([&](const Tensors& in) -> Tensors {
        at::Tensor sum = at::zeros({1}, in[0].options().dtype(at::kDouble));
        at::Tensor dw = at::zeros(in[1].sizes(), in[0].options().dtype(at::kFloat));
        const at::Tensor dx = linear_cross_entropy_(sum, in[0], in[1], in[2], kSeed, dw);
        const at::Tensor log_p = at::matmul(in[0], in[1].t()).to(at::kDouble).log_softmax(-1);
        const at::Tensor scored = in[2].ne(kIgnore).unsqueeze(1),
                         label = in[2].clamp_min(0).unsqueeze(1);
        const at::Tensor loss = -(log_p.gather(1, label) * scored).sum();
        at::Tensor dlogits = log_p.exp();
        dlogits.scatter_add_(1, label, at::full_like(label, -1, dlogits.options()));
        dlogits *= scored * kSeed;
        return {sum,
                loss.view({1}),
                dx.to(at::kDouble),
                dlogits.matmul(in[1].to(at::kDouble)),
                dw.to(at::kDouble),
                dlogits.t().matmul(in[0].to(at::kDouble))};
      })(in);
      if (!on_cuda() && dtype == at::kBFloat16) continue;
      const double loss = got[1].item().toDouble();
      EXPECT_NEAR(got[0].item().toDouble(), loss, 1e-5 * loss);
      const double allowed = dtype == at::kFloat ? 1e-4 : 0x1p-7;
      for (size_t i : {2, 4})
        EXPECT_LE(testing::distance(got[i], got[i + 1]),
                  allowed * got[i + 1].abs().max().item().toDouble());
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
