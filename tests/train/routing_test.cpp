// What a step does for its routers, in fp64: losses that do not depend on the cut of the global
// batch, loads counted once, correction biases that follow them and are kept.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/temp_folder.h"
#include "parallel/routed.h"
#include "train/state.h"
#include "train/step.h"

namespace conclave::train {
namespace {

using parallel::testing::fill_correction_biases;
using parallel::testing::kExperts;
using parallel::testing::largest;
using parallel::testing::make_routed;
using parallel::testing::number;
using parallel::testing::packed_rows;
using parallel::testing::RoutedModel;
using parallel::testing::router_options;
using parallel::testing::same_bits;
using enum nn::Scoring;

constexpr nn::Scoring kScorings[] = {softmax_then_top_k, top_k_then_softmax, sigmoid};
const std::set<std::string> kClasses = {"norm",    "linear", "dispatch",
                                        "gate_up", "swiglu", "experts_out"};

optim::AdamW make_adamw(parallel::Units& units) {
  std::vector<optim::FlatShard> shards;
  for (const auto& s : units.shards())
    shards.push_back({s.weights, s.grad, s.decay_ranges, s.unit->trained()});
  return optim::AdamW({}, std::move(shards));
}

struct Cut {
  int ranks = 1, rows_at_once = 4, steps = 0;
  std::set<std::string> recompute;
  bool release = false;
};

std::vector<parallel::Batch> rows_of(int rank, const Cut& run) {
  const int mine = 4 / run.ranks, cut = std::min(run.rows_at_once, mine);
  std::vector<parallel::Batch> batches;
  for (int r = rank * mine; r < (rank + 1) * mine; r += cut)
    batches.push_back(packed_rows(r, r + cut));
  return batches;
}

struct Outcome {
  std::vector<at::Tensor> gradients, loads, biases;
  double aux = 0, max_load = 0;
};

// Gradients and loads of one accumulation, then correction biases after `steps` steps.
Outcome outcome(const nn::RouterOptions& o, const Cut& run) {
  Outcome out;
  comm::run_threads(run.ranks, [&](comm::Comm& comm) {
    nn::Decoder decoder = make_routed(o);
    parallel::Units units(decoder, comm, {.release_after_use = run.release, .poison = true});
    parallel::initialise(units, 5, 0.4);
    fill_correction_biases(decoder);
    comm::LocalDispatcher dispatcher;
    optim::AdamW optimizer = make_adamw(units);
    const Gradients g =
        accumulate(decoder, units, dispatcher, rows_of(comm.rank(), run), run.recompute);
    Outcome mine{.loads = g.loads, .aux = number(g.aux), .max_load = number(g.max_load)};
    for (const auto& s : units.shards()) {
      if (!s.unit->trained()) continue;
      at::Tensor all = at::empty({s.range.size() * comm.size()}, at::kDouble);
      comm.all_gather(all, s.grad);
      mine.gradients.push_back(all.narrow(0, 0, s.unit->layout().numel).clone());
    }
    for (int i = 0; i < run.steps; ++i)
      EXPECT_FALSE(step(decoder, units, dispatcher, optimizer, rows_of(comm.rank(), run),
                        {.lr = 1e-3, .recompute = run.recompute, .bias_rate = 0.01})
                       .wait()
                       .skipped);
    for (const auto& layer : decoder.layers)
      if (nn::Weight* bias = layer.block->correction_bias())
        mine.biases.push_back(bias->data().clone());
    // Every rank moves its biases alike.
    for (const at::Tensor& bias : mine.biases) {
      at::Tensor all = at::empty({comm.size() * kExperts}, at::kDouble);
      comm.all_gather(all, bias);
      for (int r = 0; r < comm.size(); ++r)
        EXPECT_TRUE(same_bits(all.narrow(0, r * kExperts, kExperts), bias)) << "rank " << r;
    }
    if (comm.rank() == 0) out = std::move(mine);
  });
  return out;
}

void expect_equal(const Outcome& got, const Outcome& want) {
  EXPECT_NEAR(got.aux, want.aux, 1e-12);
  EXPECT_EQ(got.max_load, want.max_load);
  ASSERT_EQ(got.gradients.size(), want.gradients.size());
  for (size_t i = 0; i < want.gradients.size(); ++i)
    EXPECT_LE(largest(got.gradients[i].sub(want.gradients[i])), 1e-12) << "unit " << i;
  ASSERT_EQ(got.loads.size(), want.loads.size());
  for (size_t i = 0; i < want.loads.size(); ++i)
    EXPECT_TRUE(same_bits(got.loads[i], want.loads[i])) << "layer " << i;
  for (size_t i = 0; i < want.biases.size(); ++i)
    EXPECT_TRUE(same_bits(got.biases[i], want.biases[i])) << "layer " << i;
}

struct Loss {
  const char* name;
  double nn::RouterOptions::*coef;
};
constexpr Loss kLosses[] = {{"auxiliary", &nn::RouterOptions::aux_coef},
                            {"sequence", &nn::RouterOptions::sequence_aux_coef},
                            {"z", &nn::RouterOptions::z_coef}};

TEST(RouterLosses, Trap4TheCutOfTheGlobalBatchDoesNotMatter) {
  for (auto scoring : kScorings)
    for (const Loss& loss : kLosses) {
      SCOPED_TRACE(std::string(loss.name) + ", scoring " +
                   std::to_string(static_cast<int>(scoring)));
      nn::RouterOptions o = router_options(scoring);
      const Outcome without = outcome(o, {});
      o.*loss.coef = 0.5;
      const Outcome one = outcome(o, {});
      EXPECT_EQ(without.aux, 0);
      EXPECT_GT(one.aux, 0);
      // It takes part: the gradients of the routers' unit are others.
      EXPECT_GT(largest(one.gradients[1].sub(without.gradients[1])), 1e-4);
      for (const Cut& run :
           {Cut{.rows_at_once = 1}, Cut{.rows_at_once = 2}, Cut{.ranks = 2, .rows_at_once = 1},
            Cut{.ranks = 2}, Cut{.ranks = 4}, Cut{.rows_at_once = 2, .recompute = kClasses}})
        expect_equal(outcome(o, run), one);
    }
}

TEST(RouterLosses, AreSmallerForABatchThatIsLargerAtEqualRows) {
  // Twice the same rows in one step: the same mean, so the same losses and gradients.
  for (const Loss& loss : kLosses) {
    nn::RouterOptions o = router_options(sigmoid);
    o.*loss.coef = 0.5;
    RoutedModel once(o), twice(o);
    const Gradients a =
        accumulate(once.decoder, once.units, once.dispatcher, {packed_rows(0, 4)}, {});
    const Gradients b = accumulate(twice.decoder, twice.units, twice.dispatcher,
                                   {packed_rows(0, 4), packed_rows(0, 4)}, {});
    EXPECT_NEAR(number(a.aux), number(b.aux), 1e-12) << loss.name;
    const auto ga = once.gradients(), gb = twice.gradients();
    for (size_t i = 0; i < ga.size(); ++i) EXPECT_LE(largest(ga[i].sub(gb[i])), 1e-12) << loss.name;
  }
}

TEST(Loads, Trap4AreCountedOnceUnderRecompute) {
  const nn::RouterOptions o = router_options(sigmoid);
  const Outcome kept = outcome(o, {.steps = 3});
  for (const at::Tensor& loads : kept.loads) {
    EXPECT_EQ(loads.sum().item().toLong(), 4 * 8 * 3);  // rows · tokens · top_k
  }
  expect_equal(outcome(o, {.steps = 3, .recompute = kClasses}), kept);
  expect_equal(outcome(o, {.rows_at_once = 1, .steps = 3, .recompute = kClasses, .release = true}),
               kept);
}

TEST(CorrectionBias, FollowsTheLoadsOfTheWholeGlobalBatchOnce) {
  const nn::RouterOptions o = router_options(sigmoid);
  const Outcome before = outcome(o, {}), after = outcome(o, {.steps = 1});
  for (size_t i = 0; i < 2; ++i) {
    const at::Tensor mean = at::full({kExperts}, 12.0, at::kDouble);
    const at::Tensor want =
        before.biases[i].add(mean.sub(before.loads[i].to(at::kDouble)).sign().mul(0.01));
    EXPECT_TRUE(same_bits(after.biases[i], want)) << "layer " << i;
    EXPECT_GT(largest(want.sub(before.biases[i])), 0);
  }
  const Outcome three = outcome(o, {.steps = 3});
  for (int ranks : {1, 2, 4})
    for (int rows : {1, 2}) expect_equal(outcome(o, {ranks, rows, 3}), three);
}

TEST(CorrectionBias, StaysWithoutARateInEvaluationAndInASkippedStep) {
  RoutedModel m(router_options(sigmoid));
  optim::AdamW optimizer = make_adamw(m.units);
  nn::Weight* bias = m.decoder.layers[1].block->correction_bias();
  const at::Tensor before = bias->data().clone();
  auto run = [&](double rate) {
    return step(m.decoder, m.units, m.dispatcher, optimizer, {packed_rows(0, 4)},
                {.lr = 1e-3, .bias_rate = rate})
        .wait();
  };
  EXPECT_FALSE(run(0).skipped);
  EXPECT_TRUE(same_bits(bias->data(), before));
  evaluate(m.decoder, m.units, m.dispatcher, packed_rows(0, 4));
  EXPECT_TRUE(same_bits(bias->data(), before));
  m.decoder.head_unit->data()[0].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(run(0.01).skipped);
  EXPECT_TRUE(same_bits(bias->data(), before));
}

// In bf16 a step of 0.001 on a bias of 1 would be lost.
TEST(CorrectionBias, TrapIsFp32InABf16Model) {
  RoutedModel m(router_options(sigmoid), {}, at::kBFloat16);
  optim::AdamW optimizer = make_adamw(m.units);
  nn::Weight* bias = m.decoder.layers[0].block->correction_bias();
  ASSERT_EQ(bias->data().scalar_type(), at::kFloat);
  bias->data().fill_(1);
  const Gradients g = accumulate(m.decoder, m.units, m.dispatcher, {packed_rows(0, 4)}, {});
  step(m.decoder, m.units, m.dispatcher, optimizer, {packed_rows(0, 4)},
       {.lr = 1e-3, .bias_rate = 0.001});
  const at::Tensor loads = g.loads[0];
  for (int64_t e = 0; e < kExperts; ++e) {
    const int64_t load = loads[e].item().toLong();
    EXPECT_EQ(bias->data()[e].item().toDouble(),
              static_cast<double>(1.0F + 0.001F * static_cast<float>((load < 12) - (load > 12))));
  }
}

TEST(CorrectionBias, IsSavedRestoredAndUnknownToTheOptimizer) {
  for (auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const TempFolder folder;
    const std::string name = "model.layers.1.gate.e_score_correction_bias";
    RoutedModel a(router_options(sigmoid), {}, dtype);
    optim::AdamW adam_a = make_adamw(a.units);
    auto run = [](RoutedModel& m, optim::AdamW& adam) {
      return step(m.decoder, m.units, m.dispatcher, adam, {packed_rows(0, 4)},
                  {.lr = 1e-2, .bias_rate = 0.01})
          .wait();
    };
    run(a, adam_a);
    auto contents = contents_of(a.units, adam_a, {.step = 1});
    contents.config_json = "{}";
    auto count = [&](const std::vector<checkpoint::NamedTensor>& tensors) {
      return std::count_if(tensors.begin(), tensors.end(), [&](const auto& t) {
        return t.name.find("correction_bias") != std::string::npos;
      });
    };
    EXPECT_EQ(count(contents.tensors), 2);
    EXPECT_EQ(count(contents.beside["optimizer.safetensors"]), 0);
    // What `forward --grads` lists.
    EXPECT_EQ(count(named_tensors(a.units, [&](size_t i) { return a.units.shards()[i].grad; })), 0);
    checkpoint::save_folder(folder / "step", contents);

    RoutedModel b(router_options(sigmoid), {}, dtype);
    for (auto& s : b.units.shards()) s.weights.fill_(7);
    optim::AdamW adam_b = make_adamw(b.units);
    EXPECT_EQ(restore(folder / "step", b.units, adam_b).step, 1);
    for (int i = 0; i < 2; ++i) {
      const auto ra = run(a, adam_a), rb = run(b, adam_b);
      EXPECT_EQ(ra.loss, rb.loss);
      for (size_t u = 0; u < a.decoder.units.size(); ++u)
        for (size_t w = 0; w < a.decoder.units[u]->weights().size(); ++w) {
          const nn::Weight& mine = *a.decoder.units[u]->weights()[w];
          EXPECT_TRUE(same_bits(mine.data(), b.decoder.units[u]->weights()[w]->data()))
              << mine.name() << " after " << i + 1 << " steps, " << dtype;
        }
    }
  }
}

}  // namespace
}  // namespace conclave::train
