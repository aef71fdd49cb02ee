#include "optim/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "ops/adamw.h"

namespace conclave::optim {
namespace {

constexpr int64_t kNumel = 1000;
const std::vector<int64_t> kDecay{0, 300, 512, 1000};

at::Tensor wave(double frequency, at::ScalarType dtype) {
  return at::arange(kNumel, at::kDouble).mul_(frequency).cos_().to(dtype);
}

at::ScalarType wide(at::ScalarType dtype) { return dtype == at::kDouble ? dtype : at::kFloat; }

FlatShard shard(at::ScalarType dtype) {
  return {wave(0.1, dtype), at::zeros({kNumel}, wide(dtype)), kDecay};
}

void run(AdamW& optimizer, at::Tensor grad, int64_t from, int64_t to) {
  for (int64_t step = from; step < to; ++step) {
    grad.copy_(wave(0.01 * static_cast<double>(step), grad.scalar_type()));
    optimizer.step(1e-2 / static_cast<double>(step), 0.5);
  }
}

TEST(AdamWOptimizer, UpdatesEveryShardAsTheOpDoes) {
  for (auto dtype : {at::kFloat, at::kDouble}) {
    const FlatShard a = shard(dtype);
    const FlatShard b{wave(0.2, dtype), a.grad, {}};
    const at::Tensor w = b.weights.clone(), m = at::zeros_like(w), v = at::zeros_like(w);
    AdamW optimizer({}, {a, b});
    run(optimizer, a.grad, 1, 4);
    for (int64_t step = 1; step < 4; ++step)
      ops::adamw_(w, m, v, wave(0.01 * static_cast<double>(step), dtype), {},
                  {.lr = 1e-2 / static_cast<double>(step),
                   .beta1 = 0.9,
                   .beta2 = 0.95,
                   .eps = 1e-8,
                   .weight_decay = 0.1,
                   .step = step,
                   .grad_scale = 0.5});
    EXPECT_EQ(optimizer.steps(), 3);
    EXPECT_TRUE(at::equal(b.weights, w));
    EXPECT_TRUE(at::equal(optimizer.m(1), m));
    EXPECT_TRUE(at::equal(optimizer.v(1), v));
    EXPECT_FALSE(at::equal(a.weights, wave(0.1, dtype)));
    EXPECT_FALSE(optimizer.lo(0).defined());
  }
}

TEST(AdamWOptimizer, KeepsForBf16WhatItIsTold) {
  const FlatShard s = shard(at::kBFloat16);
  const AdamW bare({}, {s}, {.master = false, .bf16_moments = true});
  EXPECT_FALSE(bare.lo(0).defined());
  EXPECT_EQ(bare.m(0).scalar_type(), at::kBFloat16);
  EXPECT_EQ(bare.v(0).scalar_type(), at::kBFloat16);
  AdamW exact({}, {s}, {.master = true, .bf16_moments = true});
  EXPECT_TRUE(exact.lo(0).defined());
  run(exact, s.grad, 1, 3);
  EXPECT_FALSE(at::equal(s.weights, wave(0.1, at::kBFloat16)));
}

TEST(AdamWOptimizer, LeavesBuffersAlone) {
  const FlatShard a = shard(at::kFloat);
  const FlatShard buffer{wave(0.3, at::kFloat), {}, {}, /*trained=*/false};
  AdamW optimizer({}, {buffer, a});
  run(optimizer, a.grad, 1, 3);
  EXPECT_TRUE(at::equal(buffer.weights, wave(0.3, at::kFloat)));
  for (const at::Tensor& t : {optimizer.m(0), optimizer.v(0), optimizer.lo(0)})
    EXPECT_FALSE(t.defined());
  EXPECT_FALSE(at::equal(a.weights, wave(0.1, at::kFloat)));
  // A gradient that was forgotten is no buffer.
  EXPECT_THROW(AdamW({}, {FlatShard{buffer.weights, {}, {}}}), c10::Error);
}

TEST(AdamWOptimizer, MomentsHaveTheTypeOfTheGradient) {
  for (auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    AdamW optimizer({}, {shard(dtype)});
    EXPECT_EQ(optimizer.m(0).scalar_type(), wide(dtype));
    EXPECT_EQ(optimizer.v(0).scalar_type(), wide(dtype));
    EXPECT_EQ(optimizer.lo(0).defined(), dtype == at::kBFloat16);
  }
}

TEST(AdamWOptimizer, BFloat16WithAMasterTakesTheStepsOfFp32) {
  const FlatShard whole = shard(at::kFloat), half = shard(at::kBFloat16);
  AdamW exact({}, {whole}), split({}, {half});
  split.set_master(0, whole.weights);
  run(exact, whole.grad, 1, 20);
  run(split, half.grad, 1, 20);
  EXPECT_TRUE(at::equal(ops::join_master(half.weights, split.lo(0)), whole.weights));
}

TEST(AdamWOptimizer, WithoutAMasterTheWeightsAreTheMaster) {
  const FlatShard half = shard(at::kBFloat16);
  AdamW optimizer({}, {half});
  EXPECT_TRUE(
      at::equal(ops::join_master(half.weights, optimizer.lo(0)), half.weights.to(at::kFloat)));
}

// What a checkpoint holds (weights, m, v, lo, steps) is all that a run depends on.
TEST(AdamWOptimizer, ResumesBitForBit) {
  for (auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const FlatShard straight = shard(dtype), first = shard(dtype), second = shard(dtype);
    AdamW a({}, {straight}), b({}, {first}), c({}, {second});
    run(a, straight.grad, 1, 10);
    run(b, first.grad, 1, 5);
    second.weights.copy_(first.weights);
    c.m(0).copy_(b.m(0));
    c.v(0).copy_(b.v(0));
    if (dtype == at::kBFloat16) c.lo(0).copy_(b.lo(0));
    c.set_steps(b.steps());
    run(c, second.grad, 5, 10);
    EXPECT_TRUE(at::equal(second.weights, straight.weights)) << dtype;
    EXPECT_TRUE(at::equal(c.m(0), a.m(0))) << dtype;
    EXPECT_TRUE(at::equal(c.v(0), a.v(0))) << dtype;
  }
}

TEST(AdamWOptimizer, RefusesShardsThatDoNotFit) {
  FlatShard s = shard(at::kFloat);
  s.grad = at::zeros({kNumel - 1});
  EXPECT_THROW(AdamW({}, {s}), c10::Error);
  AdamW whole({}, {shard(at::kFloat)});
  EXPECT_THROW(whole.set_master(0, wave(1, at::kFloat)), c10::Error);
}

}  // namespace
}  // namespace conclave::optim
