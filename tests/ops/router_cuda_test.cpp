#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <set>

#include "ops/balance.h"
#include "ops/cuda_testing.h"
#include "ops/dispatch.h"
#include "ops/router.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct RouteCase {
  const char* name;
  int64_t tokens, experts;
  Selection selection;
  bool bias = false;
};
const std::vector<RouteCase> kRoutes = {
    {"Qwen3", 500, 128, {.top_k = 8}},
    {"softmax, weights as they are", 37, 60, {.top_k = 4, .renormalise = false}},
    {"GPT-OSS 20B", 300, 32, {.scoring = Scoring::top_k_then_softmax, .top_k = 4}},
    {"DeepSeek-V3",
     300,
     256,
     {.scoring = Scoring::sigmoid, .top_k = 8, .scale = 2.5, .groups = 8, .top_groups = 4},
     true},
    {"Kimi-K2", 300, 384, {.scoring = Scoring::sigmoid, .top_k = 8, .scale = 2.827}, true},
    {"groups of 3",
     65,
     33,
     {.scoring = Scoring::sigmoid, .top_k = 5, .groups = 11, .top_groups = 4},
     true},
    {"sigmoid, not renormalised",
     65,
     16,
     {.scoring = Scoring::sigmoid, .top_k = 2, .renormalise = false}},
    {"one token", 1, 128, {.top_k = 8}},
    {"all experts", 9, 64, {.top_k = 64}},
    {"one expert", 9, 1, {.top_k = 1}},
    {"512 experts", 70, 512, {.scoring = Scoring::top_k_then_softmax, .top_k = 10}},
    {"no token", 0, 32, {.top_k = 4}},
};

// logits, bias (some of its values large and negative)
Tensors route_inputs(const RouteCase& c) {
  return {normal({c.tokens, c.experts}, at::kFloat, 1).mul_(2),
          c.bias ? normal({c.experts}, at::kFloat, 2).sub_(1) : at::Tensor()};
}

TEST(RouteCuda, ChoosesAsTheCpuDoes) {
  CONCLAVE_NEEDS_CUDA();
  for (const RouteCase& c : kRoutes) {
    SCOPED_TRACE(c.name);
    const Tensors in = route_inputs(c), there = moved(in, at::kCUDA);
    const Routing cpu = route(in[0], in[1], c.selection);
    poison_freed_cuda_memory();
    const Routing gpu = route(there[0], there[1], c.selection);
    EXPECT_TRUE(same_bits(gpu.ids.cpu(), cpu.ids));
    EXPECT_TRUE(same_bits(gpu.loads.cpu(), cpu.loads));
    EXPECT_LE(distance(gpu.weights.cpu(), cpu.weights), 2e-6);
    // Given ids, in another order than the choice.
    const at::Tensor given = cpu.ids.flip(1).contiguous();
    const Routing replay = route(there[0], there[1], c.selection, given.to(at::kCUDA));
    EXPECT_TRUE(same_bits(replay.ids.cpu(), given));
    EXPECT_LE(distance(replay.weights.cpu(), route(in[0], in[1], c.selection, given).weights),
              2e-6);
    EXPECT_TRUE(same_bits(replay.loads.cpu(), cpu.loads));
  }
}

TEST(RouteCuda, HasTheCpusGradients) {
  CONCLAVE_NEEDS_CUDA();
  for (const RouteCase& c : kRoutes)
    for (bool with_dprobs : {false, true}) {
      SCOPED_TRACE(::testing::Message() << c.name << (with_dprobs ? " with dprobs" : ""));
      const Tensors in = route_inputs(c);
      const at::Tensor ids = route(in[0], in[1], c.selection).ids;
      auto backward = [&](const Tensors& t) -> Tensors {  // dweights, dprobs, logits, ids
        return {route_backward(t[0], t[1], t[2], t[3], c.selection)};
      };
      expect_as_good_as_cpu(
          on_cuda(backward), backward,
          {normal({c.tokens, c.selection.top_k}, at::kFloat, 3),
           with_dprobs ? normal(in[0].sizes(), at::kFloat, 4) : at::Tensor(), in[0], ids});
    }
}

TEST(RouteCuda, BreaksTiesByTheLowerId) {
  CONCLAVE_NEEDS_CUDA();
  for (auto scoring :
       {Scoring::softmax_then_top_k, Scoring::top_k_then_softmax, Scoring::sigmoid}) {
    // Whole numbers: many equal scores. Zeros of both signs are equal too.
    const at::Tensor logits = whole({200, 128}, 3, 1).to(at::kFloat).sub_(1);
    logits.select(1, 5).fill_(-0.0);
    const Selection s{.scoring = scoring, .top_k = 8};
    EXPECT_TRUE(same_bits(route(logits.cuda(), {}, s).ids.cpu(), route(logits, {}, s).ids));
  }
  const Selection groups{.scoring = Scoring::sigmoid, .top_k = 4, .groups = 4, .top_groups = 2};
  const at::Tensor logits = at::zeros({3, 32}), bias = at::full({32}, -2., at::kFloat);
  EXPECT_TRUE(same_bits(route(logits.cuda(), bias.cuda(), groups).ids.cpu(),
                        route(logits, bias, groups).ids));
}

TEST(RouteCuda, ChoosesDistinctExpertsAmongNaN) {
  CONCLAVE_NEEDS_CUDA();
  for (const RouteCase& c : kRoutes) {
    if (c.tokens == 0) continue;
    at::Tensor logits = route_inputs(c)[0];
    logits[0].fill_(std::numeric_limits<double>::quiet_NaN());
    logits.select(1, 0).fill_(std::numeric_limits<double>::quiet_NaN());
    const at::Tensor ids =
        route(logits.cuda(), moved(route_inputs(c), at::kCUDA)[1], c.selection).ids.cpu();
    for (int64_t t = 0; t < c.tokens; ++t) {
      const int64_t* mine = ids.const_data_ptr<int64_t>() + t * c.selection.top_k;
      const std::set<int64_t> distinct(mine, mine + c.selection.top_k);
      EXPECT_EQ(static_cast<int64_t>(distinct.size()), c.selection.top_k) << c.name;
      EXPECT_TRUE(*distinct.begin() >= 0 && *distinct.rbegin() < c.experts) << c.name;
    }
  }
}

TEST(RouteCuda, MakesTheCpusGates) {
  CONCLAVE_NEEDS_CUDA();
  for (auto [tokens, top_k, experts] :
       {std::tuple<int64_t, int64_t, int64_t>{1000, 8, 128}, {7, 4, 32}, {3, 5, 5}, {0, 1, 2}}) {
    EXPECT_TRUE(same_bits(balanced_ids(tokens, top_k, experts, at::kCUDA).cpu(),
                          balanced_ids(tokens, top_k, experts)));
    EXPECT_TRUE(same_bits(uniform_ids(tokens, top_k, experts, 1234, 7, at::kCUDA).cpu(),
                          uniform_ids(tokens, top_k, experts, 1234, 7)));
  }
}

TEST(BalanceCuda, EqualsTheCpu) {
  CONCLAVE_NEEDS_CUDA();
  const std::vector<int64_t> offsets = {0, 40, 40, 41, 100};
  for (auto scoring : {Scoring::softmax_then_top_k, Scoring::sigmoid}) {
    const at::Tensor logits = normal({100, 24}, at::kFloat, 1),
                     ids = route(logits, {}, {.scoring = scoring, .top_k = 3}).ids;
    auto losses = [&](const Tensors& in) -> Tensors {
      const at::Tensor probs = balance_probs(in[0], scoring);
      auto [row, drow] = balance_loss(probs, in[1], offsets, 0.3, GroupWeight::one);
      auto [doc, ddoc] = balance_loss(probs, in[1], offsets, 0.3, GroupWeight::length);
      auto [z, dz] = z_loss(in[0], 0.01);
      return {probs, row, drow, doc, ddoc, z, dz};
    };
    expect_as_good_as_cpu(on_cuda(losses), losses, {logits, ids});
  }
  const at::Tensor loads = at::tensor(std::vector<int64_t>{3, 0, 2, 2, 1, 4}),
                   bias = normal({6}, at::kFloat, 2);
  at::Tensor cpu = bias.clone(), gpu = bias.cuda();
  correct_bias_(cpu, loads, 0.25);
  correct_bias_(gpu, loads.cuda(), 0.25);
  EXPECT_TRUE(same_bits(gpu.cpu(), cpu));
}

void expect_cpus_layout(const at::Tensor& ids, int64_t experts) {
  const ExpertLayout cpu = expert_layout(ids, experts);
  poison_freed_cuda_memory();
  const ExpertLayout gpu = expert_layout(ids.cuda(), experts);
  EXPECT_EQ(gpu.offsets.scalar_type(), at::kInt);
  EXPECT_TRUE(same_bits(gpu.offsets.cpu().to(at::kLong), cpu.offsets));
  EXPECT_TRUE(same_bits(gpu.pair.cpu().to(at::kLong), cpu.pair));
  EXPECT_TRUE(same_bits(gpu.row.cpu().to(at::kLong), cpu.row));
}

TEST(ExpertLayoutCuda, EqualsTheCpus) {
  CONCLAVE_NEEDS_CUDA();
  for (auto [tokens, top_k, experts] : {std::tuple<int64_t, int64_t, int64_t>{1000, 8, 128},
                                        {127, 8, 9},
                                        {128, 8, 384},
                                        {129, 8, 384},
                                        {1023, 1, 2},
                                        {1025, 1, 33},
                                        {5000, 6, 768},
                                        {1, 1, 1},
                                        {0, 2, 16}}) {
    SCOPED_TRACE(::testing::Message() << tokens << " x " << top_k << " on " << experts);
    expect_cpus_layout(uniform_ids(tokens, top_k, experts, 1, 2), experts);
  }
  expect_cpus_layout(balanced_ids(1500, 4, 8), 8);
  expect_cpus_layout(at::full({3000, 1}, 5, at::kLong), 7);  // all to one expert
}

}  // namespace
}  // namespace conclave::ops
