// Runs whose ranks exchange fixed numbers of rows: steps that need more are run again, and what
// comes of it are the bytes of a run that exchanges the counts.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <latch>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "checkpoint/testing.h"
#include "ranks/rank.h"
#include "train/loop.h"

namespace conclave::ranks {
namespace {

namespace fs = std::filesystem;
using checkpoint::TempFolder;

constexpr int64_t kSeqLen = 8, kRowsAtOnce = 2;
const Family& kFamily = families()[2];  // correction biases, a module of prediction

std::shared_ptr<const data::TokenizedText> text(int docs, int64_t seed) {
  auto t = std::make_shared<data::TokenizedText>();
  for (int d = 0; d < docs; ++d) {
    for (int64_t i = 0; i < 5 + (7 * d + seed) % 13; ++i)
      t->ids.push_back(
          static_cast<int32_t>((seed + 3 * d + i * i + 2 * i * d) % parallel::testing::kVocab));
    t->doc_offsets.push_back(t->tokens());
  }
  return t;
}

// A world of thread ranks beside another, for the threads that save: thread ranks that wait in two
// calls at once are taken for stuck.
class Control {
 public:
  explicit Control(int ranks)
      : there_(ranks + 1), done_(1), comms_(static_cast<size_t>(ranks)), threads_([this, ranks] {
          comm::run_threads(ranks, [this](comm::Comm& comm) {
            comms_[static_cast<size_t>(comm.rank())] = &comm;
            there_.arrive_and_wait();
            done_.wait();
          });
        }) {
    there_.arrive_and_wait();
  }
  ~Control() {
    done_.count_down();
    threads_.join();
  }
  comm::Comm* of(int rank) { return comms_[static_cast<size_t>(rank)]; }

 private:
  std::latch there_, done_;
  std::vector<comm::Comm*> comms_;
  std::thread threads_;
};

struct Trial {
  std::string dispatcher = "all_to_all";
  double margin = 1;
  int64_t steps = 6;
  std::optional<int64_t> from = {};  // goes on from this step's checkpoint
  comm::RankLayout layout = {1, 4, 4, 1};
  int at_once = 1;  // micro-batches
};

// The state at the end, on rank 0.
train::TrainState train_in(const fs::path& path, const Trial& trial) {
  train::TrainState end;
  const RunSpec run{.family = &kFamily, .layout = trial.layout, .dispatcher = trial.dispatcher};
  const int ranks = trial.layout.world();
  Control control(ranks);
  comm::run_thread_ranks(ranks, [&](comm::CommFactory& factory) {
    at::set_num_threads(1);
    Rank rank(run, factory);
    const data::PackedDataset train(text(40, 1), kSeqLen, 7), held_out(text(9, 2), kSeqLen, {});
    data::Sampler sampler(train.rows(), 3);
    checkpoint::RunFolder folder(path, 9, control.of(factory.rank()));
    train::TrainState state;
    if (trial.from)
      state = train::restore(folder.step_path(*trial.from), rank.units, *rank.optimizer);
    const auto facts = rank.decoder.layers.back().facts;
    train::LoopConfig config{.steps = trial.steps,
                             .rows = 4 * ranks,
                             .micro_rows = kRowsAtOnce,
                             .clip_norm = 0.5,
                             .bias_rate = 1e-3,
                             .mtp_weight = kFamily.mtp_weight,
                             .at_once = trial.at_once,
                             .validate_every = 2,
                             .checkpoint_every = 3};
    config.capacity = comm::CapacityRule({.tokens = kSeqLen * kRowsAtOnce,
                                          .experts = facts.experts,
                                          .top_k = facts.top_k,
                                          .ranks = trial.layout.ep},
                                         trial.margin);
    config.lr = [](int64_t step) { return 1e-2 / static_cast<double>(step); };
    train::run_loop(config,
                    {rank.decoder, rank.units, *rank.dispatcher, *rank.optimizer, train, &held_out,
                     sampler, folder, [](auto& contents) { contents.config_json = "{}"; }},
                    state);
    if (factory.rank() == 0) end = state;
  });
  return end;
}

// metrics.jsonl without what a run measures of time or has only with a capacity.
std::vector<nlohmann::json> metrics(const fs::path& run) {
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  std::vector<nlohmann::json> out;
  for (std::string line; std::getline(lines, line);) {
    out.push_back(nlohmann::json::parse(line));
    for (const char* key : {"seconds", "tokens_per_second", "peer_rows", "expert_rows"})
      out.back().erase(key);
  }
  return out;
}

void expect_same_files(const fs::path& a, const fs::path& b, bool with_state) {
  for (const char* step : {"step-00000003", "step-00000006"})
    for (const std::string name :
         {"model.safetensors", "optimizer.safetensors", "train_state.safetensors"})
      if (with_state || name != "train_state.safetensors") {
        EXPECT_TRUE(read_file(a / step / name) == read_file(b / step / name))
            << step << "/" << name;
      }
}

TEST(Capacity, StepsThatAreRunAgainEndInTheBytesOfCountedOnes) {
  for (const Trial& trial : {Trial{}, Trial{.layout = {2, 2, 2, 1}}, Trial{.at_once = 2}}) {
    const TempFolder counted, roomy, tight;
    const train::TrainState want = train_in(counted.path(), trial);
    for (const auto& [path, margin] :
         {std::pair(roomy.path(), 9.0), std::pair(tight.path(), 1.0)}) {
      SCOPED_TRACE(trial.layout.text() + ", margin " + std::to_string(margin));
      Trial fixed = trial;
      fixed.dispatcher = "all_to_all_capacity", fixed.margin = margin;
      const train::TrainState got = train_in(path, fixed);
      EXPECT_EQ(got.step, want.step);
      EXPECT_EQ(got.sample, want.sample);
      EXPECT_EQ(got.tokens, want.tokens);
      EXPECT_EQ(got.skipped, 0);
      EXPECT_EQ(got.best_validation, want.best_validation);
      EXPECT_EQ(got.capacity.again > 0, margin == 1.0);
      expect_same_files(path, counted.path(), false);
      EXPECT_EQ(metrics(path), metrics(counted.path()));
    }
  }
}

TEST(Capacity, IsGoneOnWith) {
  const TempFolder at_once, in_two;
  const Trial all{.dispatcher = "all_to_all_capacity", .margin = 1.1};
  Trial first = all, then = all;
  first.steps = 3, then.from = 3;
  train_in(at_once.path(), all);
  const train::TrainState half = train_in(in_two.path(), first);
  EXPECT_GT(half.capacity.now.peer_rows, 0);
  train_in(in_two.path(), then);
  expect_same_files(in_two.path(), at_once.path(), true);
  EXPECT_EQ(metrics(in_two.path()), metrics(at_once.path()));
}

// As on a GPU, where the next step is launched before it is known that rows were left out.
TEST(Capacity, AStepBehindOneThatLeftRowsOutChangesNothingEither) {
  RunSpec run{.family = &kFamily, .layout = {1, 4, 4, 1}, .dispatcher = "all_to_all_capacity"};
  const comm::Capacity enough = run.highest_load();
  run.capacity = comm::Capacity{enough.peer_rows / 2, enough.expert_rows};
  comm::run_thread_ranks(4, [&](comm::CommFactory& factory) {
    at::set_num_threads(1);
    Rank rank(run, factory), roomy({.family = &kFamily, .layout = run.layout}, factory);
    const auto launch = [&](Rank& r, int64_t from, double lr) {
      std::vector<parallel::Batch> rows{rows_of(static_cast<int>(from) + 6 * factory.rank(), 6)};
      return train::step(r.decoder, r.units, *r.dispatcher, *r.optimizer, std::move(rows),
                         {.lr = lr, .clip_norm = 0.5, .bias_rate = 1e-3, .mtp_weight = 0.3});
    };
    comm::CapacityDispatcher& fixed = *rank.dispatcher->with_capacity();
    const auto expect_same = [&] {
      for (size_t i = 0; i < rank.units.shards().size(); ++i)
        EXPECT_TRUE(parallel::testing::same_bits(rank.units.shards()[i].weights,
                                                 roomy.units.shards()[i].weights));
      EXPECT_EQ(rank.optimizer->steps(), roomy.optimizer->steps());
    };
    const train::StepFigures one = launch(rank, 0, 1e-3);
    fixed.set_capacity(enough);  // the step behind it has room, but other weights than it should
    const train::StepFigures two = launch(rank, 1, 2e-3);
    EXPECT_TRUE(one.wait().left_out);
    EXPECT_GT(one.wait().load.peer_rows, run.capacity->peer_rows);
    EXPECT_TRUE(two.wait().left_out);
    EXPECT_LE(two.wait().load.peer_rows, enough.peer_rows);
    expect_same();
    fixed.clear();
    for (int step = 0; step < 2; ++step) {
      EXPECT_FALSE(launch(rank, step, 1e-3 * (step + 1)).wait().left_out);
      launch(roomy, step, 1e-3 * (step + 1)).wait();
    }
    expect_same();
  });
}

}  // namespace
}  // namespace conclave::ranks
