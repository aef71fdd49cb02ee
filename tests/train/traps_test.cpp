// Traps that other systems stepped into, seen in whole steps; docs/traps.md lists them.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <map>

#include "parallel/routed.h"
#include "train/step.h"

namespace conclave::train {
namespace {

using namespace parallel::testing;
using Named = std::map<std::string, at::Tensor>;

optim::AdamW make_adamw(parallel::Units& units) {
  std::vector<optim::FlatShard> shards;
  for (const auto& s : units.shards())
    shards.push_back({s.weights, s.grad, s.decay_ranges, s.unit->trained()});
  return optim::AdamW({}, std::move(shards));
}

std::vector<parallel::Batch> rows_of(int rank, int ranks) {
  const int mine = 4 / ranks;
  return {packed_rows(rank * mine, (rank + 1) * mine)};
}

// Every weight's gradient by its name, and the norm that a step clips by.
struct Outcome {
  Named gradients;
  double norm = 0;
};

Outcome outcome(int ranks, const nlohmann::json& config) {
  Outcome out;
  comm::run_threads(ranks, [&](comm::Comm& comm) {
    nn::Decoder decoder = make_tiny(config);
    parallel::Units units(decoder, comm);
    parallel::initialise(units, 5, 0.3);
    fill_correction_biases(decoder);
    comm::LocalDispatcher dispatcher;
    optim::AdamW optimizer = make_adamw(units);
    Outcome mine;
    mine.norm = step(decoder, units, dispatcher, optimizer, rows_of(comm.rank(), ranks),
                     {.lr = 0, .clip_norm = 0.1, .mtp_weight = 0.3})
                    .wait()
                    .grad_norm;
    for (const auto& s : units.shards()) {
      if (!s.unit->trained()) continue;
      at::Tensor all = at::empty({s.range.size() * comm.size()}, at::kDouble);
      comm.all_gather(all, s.grad);
      for (const auto& w : s.unit->weights())
        mine.gradients[w->name()] = all.narrow(0, w->at().begin, w->numel()).clone();
    }
    if (comm.rank() == 0) out = std::move(mine);
  });
  return out;
}

const std::vector<nlohmann::json> kFamilies = {tiny_config(), tiny_gpt_oss(), tiny_deepseek()};

// Trap 1: gradients of experts, or of anything, scaled by the size of a group. Every weight's
// gradient on several ranks is that of one process.
TEST(Gradients, Trap1ExpertGradientsScaledByAGroupSize) {
  for (const auto& config : kFamilies) {
    const Outcome one = outcome(1, config);
    for (int ranks : {2, 4}) {
      const Outcome got = outcome(ranks, config);
      ASSERT_EQ(got.gradients.size(), one.gradients.size());
      for (const auto& [name, want] : one.gradients) {
        EXPECT_GT(largest(want), 0) << name;
        EXPECT_LE(largest(got.gradients.at(name).sub(want)), 1e-12 * largest(want))
            << name << " on " << ranks << " ranks";
      }
    }
  }
}

// Trap 7: a norm that misses a group of weights or counts a tied one twice. It is that of all
// gradients by name, each once, and each unit's share can be seen in it.
TEST(ClipNorm, Trap7IsOneNormOfAllGroupsWithTiedWeightsOnce) {
  for (auto config : kFamilies)
    for (bool tied : {false, true}) {
      config["tie_word_embeddings"] = tied;
      SCOPED_TRACE(config["architectures"].dump() + (tied ? ", tied" : ""));
      const Outcome one = outcome(1, config);
      EXPECT_EQ(one.gradients.count("lm_head.weight"), tied ? 0u : 1u);
      double squares = 0;
      for (const auto& [name, g] : one.gradients) squares += g.square().sum().item().toDouble();
      for (const auto& [name, g] : one.gradients)
        EXPECT_GT(g.square().sum().item().toDouble(), 1e-9 * squares) << name;
      for (int ranks : {1, 2, 4})
        EXPECT_NEAR(outcome(ranks, config).norm, std::sqrt(squares), 1e-13 * std::sqrt(squares))
            << ranks << " ranks";
    }
}

// Trap 5: experts without a token get no gradient, and drift on their old moments or are passed
// over by the optimizer. Theirs is zero, whatever stood there, and their moments decay.
TEST(Experts, Trap5WithoutATokenTheGradientIsZeroAndMomentsDecay) {
  constexpr int64_t idle = 3;
  RoutedModel m(router_options(nn::Scoring::sigmoid));
  optim::AdamW optimizer = make_adamw(m.units);
  const StepOptions options{.lr = 1e-3};
  step(m.decoder, m.units, m.dispatcher, optimizer, {packed_rows(0, 4)}, options).wait();
  auto of_experts = [&](const at::Tensor& flat, const nn::Weight& w, int64_t e) {
    const int64_t each = w.numel() / kExperts;
    return flat.narrow(0, w.at().begin + e * each, each).clone();
  };
  const auto& shards = m.units.shards();
  auto each_expert_weight = [&](auto f) {
    for (size_t i = 0; i < shards.size(); ++i)
      if (shards[i].unit->name().ends_with(".experts"))
        for (const auto& w : shards[i].unit->weights()) f(i, *w);
  };
  std::vector<at::Tensor> before;
  each_expert_weight([&](size_t i, const nn::Weight& w) {
    before.push_back(of_experts(optimizer.m(i), w, idle));
    EXPECT_GT(largest(before.back()), 0) << w.name();
    before.push_back(of_experts(optimizer.v(i), w, idle));
  });
  for (auto& layer : m.decoder.layers) layer.block->correction_bias()->data()[idle].fill_(-100);
  for (const auto& s : shards)
    if (s.grad.defined()) s.grad.fill_(7);
  step(m.decoder, m.units, m.dispatcher, optimizer, {packed_rows(0, 4)}, options).wait();
  size_t next = 0;
  each_expert_weight([&](size_t i, const nn::Weight& w) {
    EXPECT_EQ(largest(of_experts(shards[i].grad, w, idle)), 0) << w.name();
    EXPECT_GT(largest(of_experts(shards[i].grad, w, idle + 1)), 0) << w.name();
    for (auto [now, beta] : {std::pair{optimizer.m(i), 0.9}, {optimizer.v(i), 0.95}}) {
      const at::Tensor want = before[next++].mul(beta);
      EXPECT_LE(largest(of_experts(now, w, idle).sub(want)), 1e-15 * largest(want)) << w.name();
    }
  });
  EXPECT_EQ(next, before.size());
}

}  // namespace
}  // namespace conclave::train
