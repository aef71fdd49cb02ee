// Every kind of router inside a decoder, in fp64: gradients of all losses together, and that what
// was chosen in the forward is what the backward uses.
#include <gtest/gtest.h>

#include <cmath>

#include "parallel/routed.h"

namespace conclave::parallel {
namespace {

using testing::number;
using testing::RoutedModel;
using testing::router_options;
using testing::same_bits;
using enum nn::Scoring;

constexpr nn::Scoring kScorings[] = {softmax_then_top_k, top_k_then_softmax, sigmoid};
const std::set<std::string> kClasses = {"norm",    "linear", "dispatch",
                                        "gate_up", "swiglu", "experts_out"};

nn::RouterOptions with_losses(nn::Scoring scoring) {
  nn::RouterOptions o = router_options(scoring);
  o.aux_coef = 0.3, o.sequence_aux_coef = 0.2, o.z_coef = 0.1;
  return o;
}

Batch batch() {
  Batch b = testing::packed_rows(0, 4);
  b.rows.aux_seed = 1.0 / 4, b.rows.token_seed = 1.0 / 32;
  return b;
}

RunOptions options(std::set<std::string> recompute = {}) {
  return {.recompute = std::move(recompute), .loss_seed = 1.0 / 17};
}

double total_loss(RoutedModel& m, const Batch& b) {
  RunOptions run = options();
  run.training = false;
  MicroBatch micro(m.decoder, m.units, m.dispatcher, b, run);
  micro.forward();
  return number(micro.loss_sum()) * run.loss_seed + number(micro.aux());
}

void expect_same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << "unit " << i;
}

// A detached routing weight or loss would leave the router's gradient without a part of it.
TEST(Routing, Trap2TheRoutersGradientIsWhole) {
  for (auto scoring : kScorings)
    for (bool renormalise : {true, false}) {
      nn::RouterOptions o = with_losses(scoring);
      o.renormalise = renormalise;
      RoutedModel m(o);
      MicroBatch micro(m.decoder, m.units, m.dispatcher, batch(), options());
      micro.forward();
      micro.backward();
      const double h = 1e-4;
      for (const auto& unit : m.decoder.units) {
        if (!unit->trained()) continue;
        for (const auto& w : unit->weights()) {
          double* data = unit->data().mutable_data_ptr<double>() + w->at().begin;
          const at::Tensor grad = w->grad().contiguous().view({-1});
          const int64_t n = w->numel(), most = grad.abs().argmax().item().toLong();
          for (int64_t i : {most, n / 3, n - 1}) {
            const double at = data[i];
            auto loss = [&](double step) {
              data[i] = at + step * h;
              return total_loss(m, batch());
            };
            const double want = (loss(-2) - 8 * loss(-1) + 8 * loss(1) - loss(2)) / (12 * h);
            data[i] = at;
            EXPECT_NEAR(grad.const_data_ptr<double>()[i], want, 1e-6 * std::abs(want) + 1e-10)
                << w->name() << " entry " << i << " scoring " << static_cast<int>(scoring);
          }
        }
      }
    }
}

std::vector<at::Tensor> gradients(nn::Scoring scoring, const std::set<std::string>& recompute,
                                  bool disturbed, const std::vector<at::Tensor>* replay = nullptr,
                                  std::vector<at::Tensor>* ids = nullptr) {
  RoutedModel m(with_losses(scoring));
  Batch b = batch();
  b.rows.replay = replay;
  MicroBatch micro(m.decoder, m.units, m.dispatcher, std::move(b), options(recompute));
  micro.forward();
  if (ids)
    for (int i = 0; i < 2; ++i) ids->push_back(micro.expert_ids(i));
  if (disturbed) testing::fill_correction_biases(m.decoder, /*seed=*/1);
  micro.backward();
  return m.gradients();
}

// The correction bias takes part in the choice alone. Moved between forward and backward, it shows
// whether anything chooses a second time.
TEST(Routing, Trap3RecomputeDoesNotRouteAgain) {
  const auto want = gradients(sigmoid, {}, false);
  expect_same_bits(gradients(sigmoid, kClasses, false), want);
  expect_same_bits(gradients(sigmoid, kClasses, true), want);
  // It would have been noticed: the other bias chooses others.
  RoutedModel m(with_losses(sigmoid));
  auto ids = [&] {
    MicroBatch micro(m.decoder, m.units, m.dispatcher, batch(), options());
    micro.forward();
    return micro.expert_ids(0);
  };
  const at::Tensor before = ids();
  testing::fill_correction_biases(m.decoder, 1);
  EXPECT_FALSE(same_bits(before, ids()));
}

TEST(Routing, RecomputeAndReplayGiveTheSameBits) {
  for (auto scoring : kScorings) {
    SCOPED_TRACE(static_cast<int>(scoring));
    std::vector<at::Tensor> ids;
    const auto want = gradients(scoring, {}, false, nullptr, &ids);
    expect_same_bits(gradients(scoring, kClasses, false), want);
    expect_same_bits(gradients(scoring, kClasses, false, &ids), want);
    // A layer without ids is routed.
    const std::vector<at::Tensor> only_second{at::Tensor(), ids[1]};
    expect_same_bits(gradients(scoring, {}, false, &only_second), want);
  }
}

TEST(Routing, ReplayedIdsAreUsedWhateverTheRouterWouldChoose) {
  for (auto scoring : kScorings) {
    RoutedModel m(with_losses(scoring));
    const std::vector<at::Tensor> ids{ops::uniform_ids(32, 3, testing::kExperts, 1, 0),
                                      ops::uniform_ids(32, 3, testing::kExperts, 1, 1)};
    Batch b = batch();
    b.rows.replay = &ids;
    MicroBatch micro(m.decoder, m.units, m.dispatcher, b, options());
    micro.forward();
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(same_bits(micro.expert_ids(i), ids[static_cast<size_t>(i)]));
      EXPECT_TRUE(
          same_bits(micro.loads(i), ops::loads_of(ids[static_cast<size_t>(i)], testing::kExperts)));
    }
    const std::vector<at::Tensor> short_list{ids[0]};
    Batch wrong = batch();
    wrong.rows.replay = &short_list;
    MicroBatch refused(m.decoder, m.units, m.dispatcher, wrong, options());
    EXPECT_THROW(refused.forward(), c10::Error);
  }
}

TEST(Routing, TheBalancedGateTakesTurnsAndTrainsNoRouter) {
  RoutedModel m(with_losses(softmax_then_top_k));
  Batch b = batch();
  b.rows.gate = nn::Gate::balanced;
  MicroBatch micro(m.decoder, m.units, m.dispatcher, b, options());
  micro.forward();
  micro.backward();
  EXPECT_EQ(number(micro.aux()), 0);
  EXPECT_TRUE(same_bits(micro.loads(0), at::tensor(std::vector<int64_t>(8, 12), at::kLong)));
  EXPECT_TRUE(same_bits(micro.expert_ids(1), ops::balanced_ids(32, 3, testing::kExperts)));
  for (const auto& w : m.decoder.layers[0].dense->weights())
    EXPECT_EQ(testing::largest(w->grad()) > 0, w->name() != "model.layers.0.gate.weight")
        << w->name();
}

TEST(Routing, TheUniformGateDependsOnItsSeedAndLayer) {
  RoutedModel m(with_losses(sigmoid));
  auto ids = [&](uint64_t seed, int layer) {
    Batch b = batch();
    b.rows.gate = nn::Gate::uniform;
    b.rows.gate_seed = seed;
    MicroBatch micro(m.decoder, m.units, m.dispatcher, b, options());
    micro.forward();
    micro.backward();
    return micro.expert_ids(layer);
  };
  EXPECT_TRUE(same_bits(ids(1, 0), ids(1, 0)));
  EXPECT_FALSE(same_bits(ids(1, 0), ids(2, 0)));
  EXPECT_FALSE(same_bits(ids(1, 0), ids(1, 1)));
  // Weights are the router's for these experts, so it is trained.
  EXPECT_GT(testing::largest(m.decoder.layers[0].dense->weights()[2]->grad()), 0);
}

TEST(Routing, BuffersAreBoundWholeAndWithoutGradient) {
  for (int ranks : {1, 2})
    comm::run_threads(ranks, [&](comm::Comm& comm) {
      nn::Decoder decoder = testing::make_routed(router_options(sigmoid));
      Units units(decoder, comm, {.release_after_use = true, .poison = true});
      initialise(units, 5, 0.4);
      for (const auto& s : units.shards()) {
        if (s.unit->trained()) continue;
        EXPECT_EQ(s.range.begin, 0);
        EXPECT_GE(s.range.end, testing::kExperts);
        EXPECT_FALSE(s.grad.defined());
        EXPECT_FALSE(s.unit->grad().defined());
        units.gather(s.unit);
        units.release(s.unit);
        units.weights_changed();
        EXPECT_TRUE(s.unit->data().is_same(s.weights));
        EXPECT_EQ(testing::largest(s.weights), 0);
      }
      units.zero_grads();
      units.reduce_grads();
      EXPECT_EQ(number(units.squared_gradient_norm()), 0);
    });
}

}  // namespace
}  // namespace conclave::parallel
