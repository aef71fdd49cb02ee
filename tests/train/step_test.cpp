// A step in fp64: the same on 1, 2 and 4 ranks and for any cut into micro-batches; clipping; steps
// that are skipped.
#include "train/step.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>

#include "parallel/tiny.h"

namespace conclave::train {
namespace {

using parallel::testing::largest;
using parallel::testing::packed_rows;
using parallel::testing::same_bits;

optim::AdamW make_adamw(parallel::Units& units) {
  std::vector<optim::FlatShard> shards;
  for (const auto& s : units.shards())
    shards.push_back({s.weights, s.grad, s.decay_ranges, s.unit->trained()});
  optim::AdamWConfig config;
  return optim::AdamW(config, std::move(shards));
}

// What a run leaves, whole units each.
struct Outcome {
  std::vector<at::Tensor> gradients, weights;
  std::vector<double> losses, mtp_losses, auxs, norms;
  std::vector<at::Tensor> loads;
  int64_t scored = 0;
};

struct Run {
  int ranks = 1, rows_at_once = 4, steps = 3;
  bool release = false;
  nlohmann::json config = parallel::testing::tiny_config();
};

std::vector<parallel::Batch> rows_of(int rank, const Run& run) {
  const int mine = 4 / run.ranks, cut = std::min(run.rows_at_once, mine);
  std::vector<parallel::Batch> batches;
  for (int r = rank * mine; r < (rank + 1) * mine; r += cut)
    batches.push_back(packed_rows(r, r + cut));
  return batches;
}

at::Tensor whole(comm::Comm& comm, const parallel::Shard& s, const at::Tensor& part) {
  at::Tensor all = at::empty({s.range.size() * comm.size()}, at::kDouble);
  comm.all_gather(all, part);
  return all.narrow(0, 0, s.unit->layout().numel).clone();
}

Outcome outcome(const Run& run) {
  Outcome out;
  comm::run_threads(run.ranks, [&](comm::Comm& comm) {
    nn::Decoder decoder = parallel::testing::make_tiny(run.config);
    parallel::Units units(decoder, comm, {.release_after_use = run.release, .poison = true});
    parallel::initialise(units, 5, 0.3);
    parallel::testing::fill_correction_biases(decoder);
    comm::LocalDispatcher dispatcher;
    optim::AdamW optimizer = make_adamw(units);
    Outcome mine;
    const Gradients g = accumulate(decoder, units, dispatcher, rows_of(comm.rank(), run), {},
                                   /*mtp_weight=*/0.3);
    mine.scored = g.scored;
    mine.loads = g.loads;
    for (const auto& s : units.shards())
      if (s.unit->trained()) mine.gradients.push_back(whole(comm, s, s.grad));
    for (int i = 0; i < run.steps; ++i) {
      const StepResult r =
          step(decoder, units, dispatcher, optimizer, rows_of(comm.rank(), run),
               {.lr = 1e-3, .clip_norm = 0.5, .bias_rate = 1e-3, .mtp_weight = 0.3})
              .wait();
      EXPECT_FALSE(r.skipped);
      mine.mtp_losses.push_back(r.mtp_loss);
      mine.losses.push_back(r.loss);
      mine.auxs.push_back(r.aux);
      mine.norms.push_back(r.grad_norm);
    }
    for (const auto& s : units.shards())
      mine.weights.push_back(s.unit->trained() ? whole(comm, s, s.weights) : s.weights.clone());
    if (comm.rank() == 0) out = std::move(mine);
  });
  return out;
}

void expect_equal(const Outcome& got, const Outcome& want) {
  EXPECT_EQ(got.scored, want.scored);
  for (size_t i = 0; i < want.losses.size(); ++i) {
    EXPECT_NEAR(got.losses[i], want.losses[i], 1e-12) << "step " << i;
    EXPECT_NEAR(got.mtp_losses[i], want.mtp_losses[i], 1e-12) << "step " << i;
    EXPECT_NEAR(got.auxs[i], want.auxs[i], 1e-12) << "step " << i;
    EXPECT_NEAR(got.norms[i], want.norms[i], 1e-12) << "step " << i;
  }
  ASSERT_EQ(got.weights.size(), want.weights.size());
  for (size_t i = 0; i < want.gradients.size(); ++i) {
    EXPECT_GT(largest(want.gradients[i]), 0) << "unit " << i;
    EXPECT_LE(largest(got.gradients[i].sub(want.gradients[i])), 1e-12) << "unit " << i;
  }
  for (size_t i = 0; i < want.weights.size(); ++i)
    EXPECT_LE(largest(got.weights[i].sub(want.weights[i])), 1e-12) << "unit " << i;
  ASSERT_EQ(got.loads.size(), want.loads.size());
  for (size_t i = 0; i < want.loads.size(); ++i)
    if (want.loads[i].defined()) {
      EXPECT_TRUE(same_bits(got.loads[i], want.loads[i])) << i;
    }
}

TEST(DataParallel, TwoAndFourRanksEqualOne) {
  const Outcome one = outcome({});
  EXPECT_GT(one.auxs[0], 0);
  EXPECT_LT(one.losses[2], one.losses[0]);
  for (int ranks : {2, 4}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks");
    expect_equal(outcome({.ranks = ranks}), one);
    expect_equal(outcome({.ranks = ranks, .rows_at_once = 1}), one);
    expect_equal(outcome({.ranks = ranks, .release = true}), one);
  }
}

TEST(Step, TheCutIntoMicroBatchesDoesNotMatter) {
  const Outcome one = outcome({});
  for (int rows : {1, 2}) {
    SCOPED_TRACE(std::to_string(rows) + " rows at once");
    expect_equal(outcome({.rows_at_once = rows}), one);
  }
}

// A shared expert, correction biases and multi-token prediction beside; rows of the global batch
// that leave a module fewer tokens than others.
TEST(Step, MultiTokenPredictionDoesNotDependOnTheCut) {
  const auto config = parallel::testing::tiny_deepseek();
  const Outcome one = outcome({.config = config});
  EXPECT_GT(one.mtp_losses[0], 0);
  EXPECT_LT(one.mtp_losses[2], one.mtp_losses[0]);
  ASSERT_EQ(one.loads.size(), 3u);  // two layers and a module
  EXPECT_EQ(one.loads[1].sum().item().toLong(), 2 * 32);
  EXPECT_EQ(one.loads[2].sum().item().toLong(), 2 * (32 - 8));  // of each of 8 documents one fewer
  for (int ranks : {1, 2, 4})
    for (int rows : {1, 2}) {
      SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(rows) + " rows at once");
      expect_equal(outcome({.ranks = ranks, .rows_at_once = rows, .config = config}), one);
    }
  expect_equal(outcome({.ranks = 2, .release = true, .config = config}), one);
}

TEST(Step, ClipsAsTorchDoes) {
  for (double clip : {0.0, 0.25, 1e6}) {
    parallel::testing::Tiny tiny;
    optim::AdamW optimizer = make_adamw(tiny.units);
    const StepResult r = step(tiny.decoder, tiny.units, tiny.dispatcher, optimizer,
                              {packed_rows(0, 4)}, {.lr = 1e-3, .clip_norm = clip})
                             .wait();
    double squares = 0;
    for (const auto& s : tiny.units.shards()) squares += s.grad.square().sum().item().toDouble();
    EXPECT_NEAR(r.grad_norm, std::sqrt(squares), 1e-13);
    EXPECT_GT(r.seconds, 0);
    // torch.nn.utils.clip_grad_norm_: times min(1, clip / (norm + 1e-6)).
    const double scale = clip == 0.25 ? 0.25 / (std::sqrt(squares) + 1e-6) : 1;
    if (clip == 0.25) {
      EXPECT_LT(scale, 1);
    }
    for (size_t i = 0; i < optimizer.size(); ++i) {
      // The first moment after one step is (1 − beta1) times the clipped gradient.
      const at::Tensor want = tiny.units.shards()[i].grad.mul(scale * (1 - 0.9));
      EXPECT_LE(largest(optimizer.m(i).sub(want)), 1e-15) << "unit " << i;
    }
  }
}

// Good step, then one with a weight that is no number on one rank's shard of `unit`.
void expect_skipped(int ranks, const std::string& unit) {
  std::mutex one_at_a_time;
  comm::run_threads(ranks, [&](comm::Comm& comm) {
    nn::Decoder decoder = parallel::testing::make_tiny();
    parallel::Units units(decoder, comm);
    parallel::initialise(units, 5, 0.3);
    comm::LocalDispatcher dispatcher;
    optim::AdamW optimizer = make_adamw(units);
    auto run = [&] {
      return step(decoder, units, dispatcher, optimizer, rows_of(comm.rank(), {.ranks = ranks}),
                  {.lr = 1e-3, .clip_norm = 1})
          .wait();
    };
    EXPECT_FALSE(run().skipped);
    for (auto& s : units.shards())
      if (s.unit->name() == unit && comm.rank() == 0)
        s.weights.mutable_data_ptr<double>()[0] = std::numeric_limits<double>::quiet_NaN();
    units.weights_changed();
    std::vector<at::Tensor> before;
    auto state = [&] {
      std::vector<at::Tensor> all;
      for (size_t i = 0; i < optimizer.size(); ++i)
        for (const at::Tensor& t : {units.shards()[i].weights, optimizer.m(i), optimizer.v(i)})
          all.push_back(t.clone());
      return all;
    };
    before = state();
    const StepResult r = run();
    const std::lock_guard lock(one_at_a_time);
    EXPECT_TRUE(r.skipped);
    EXPECT_EQ(optimizer.steps(), 1);
    const auto after = state();
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(same_bits(before[i], after[i])) << "tensor " << i;
  });
}

TEST(Step, ASkippedStepLeavesWeightsAndMomentsAlone) {
  for (int ranks : {1, 2})
    for (const char* unit : {"head", "final", "layers.1.experts", "layers.1.dense", "embedding"}) {
      SCOPED_TRACE(std::string(unit) + " on " + std::to_string(ranks) + " ranks");
      expect_skipped(ranks, unit);
    }
}

TEST(Step, EvaluateGivesTheLossWithoutGradients) {
  parallel::testing::Tiny tiny;
  const Gradients g =
      accumulate(tiny.decoder, tiny.units, tiny.dispatcher, {packed_rows(0, 4)}, {});
  const auto gradients = tiny.gradients();
  const Evaluation e = evaluate(tiny.decoder, tiny.units, tiny.dispatcher, packed_rows(0, 4));
  EXPECT_TRUE(same_bits(e.loss_sum, g.loss_sum.clone()));
  EXPECT_EQ(e.scored, g.scored);
  for (size_t i = 0; i < gradients.size(); ++i)
    EXPECT_TRUE(same_bits(gradients[i], tiny.units.shards()[i].grad));
}

}  // namespace
}  // namespace conclave::train
