// Checkpoints between layouts: what one layout saves another loads, and what that saves is the same
// to the byte.
#include <gtest/gtest.h>

#include <random>

#include "checkpoint/manifest.h"
#include "checkpoint/merge.h"
#include "checkpoint/rank_files.h"
#include "checkpoint/run_folder.h"
#include "checkpoint/testing.h"
#include "ranks/parity.h"
#include "ranks/rank.h"
#include "train/shared_state.h"

namespace conclave::ranks {
namespace {

namespace fs = std::filesystem;
using checkpoint::TempFolder;

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename() != checkpoint::kManifestName)
      files[entry.path().filename()] = read_file(entry.path());
  return files;
}

using Save = void (*)(const fs::path&, const checkpoint::SharedContents&, comm::Comm&);

void save(Rank& rank, const fs::path& folder, const train::TrainState& state,
          Save how = checkpoint::save_folder) {
  auto contents = train::shared_contents_of(rank.units, *rank.optimizer, state);
  contents.config_json = "{}";
  contents.max_shard_bytes = 20000;
  how(folder, contents, *rank.groups.world);
}

// Layouts of 1 to 8 ranks, one after the other at random.
class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {
    for (int world : {1, 2, 3, 4, 6, 8})
      for (const comm::RankLayout& l : layouts(world)) all_.push_back(l);
  }
  comm::RankLayout operator()() { return all_[random_() % all_.size()]; }

 private:
  std::mt19937 random_;
  std::vector<comm::RankLayout> all_;
};

// A layout starts from other weights, loads `from` and saves to `to`.
void load_and_save(const RunSpec& spec, const fs::path& from, const fs::path& to) {
  comm::run_thread_ranks(spec.layout.world(), [&](comm::CommFactory& factory) {
    Rank rank(spec, factory, /*seed=*/9);
    const auto state = train::restore(from, rank.units, *rank.optimizer);
    save(rank, to, state);
  });
}

// A layout trains a step and saves; each of the others loads and saves again.
TEST(Checkpoints, OneLayoutLoadsWhatAnotherSaved) {
  const TempFolder temp;
  Draw pick(3);
  int pairs = 0;
  for (const Family& family : families())
    for (int i = 0; i < 5; ++i) {
      const RunSpec first{&family, pick()};
      comm::run_thread_ranks(first.layout.world(), [&](comm::CommFactory& factory) {
        Rank rank(first, factory);
        rank.step(first);
        save(rank, temp / "a", {.step = 1, .sample = 24, .tokens = 99});
      });
      ASSERT_EQ(checkpoint::find_damage(temp / "a", checkpoint::Verify::checksums), "");
      const auto want = files_of(temp / "a");
      for (int j = 0; j < 10; ++j, ++pairs) {
        const RunSpec second{&family, pick()};
        load_and_save(second, temp / "a", temp / "b");
        EXPECT_TRUE(files_of(temp / "b") == want) << first.text() << " → " << second.text();
      }
    }
  EXPECT_EQ(pairs, 200);
}

// The same of a checkpoint in one file a rank, as it is and merged.
TEST(Checkpoints, OneLayoutLoadsTheRankFilesOfAnother) {
  const TempFolder temp;
  Draw pick(5);
  for (const Family& family : families())
    for (int i = 0; i < 3; ++i) {
      const RunSpec first{&family, pick()};
      comm::run_thread_ranks(first.layout.world(), [&](comm::CommFactory& factory) {
        Rank rank(first, factory);
        rank.step(first);
        const train::TrainState state{.step = 1, .sample = 24, .tokens = 99};
        save(rank, temp / "a", state);
        save(rank, temp / "ranks", state, checkpoint::save_rank_files);
      });
      const auto want = files_of(temp / "a");
      for (int j = 0; j < 4; ++j) {
        const RunSpec second{&family, pick()};
        load_and_save(second, temp / "ranks", temp / "b");
        EXPECT_TRUE(files_of(temp / "b") == want) << first.text() << " → " << second.text();
      }
      checkpoint::merge_rank_files(temp / "ranks", temp / "ranks");
      EXPECT_TRUE(files_of(temp / "ranks") == want) << first.text();
    }
}

// Two steps, saved by one layout, and a third of another are the three steps of one rank.
TEST(Checkpoints, TrainingGoesOnInAnotherLayout) {
  const TempFolder temp;
  for (const Family& family : families()) {
    const Reference& want = reference(family);
    const RunSpec first{&family, {2, 2, 4, 1}}, second{&family, {1, 6, 3, 2}, "all_gather"};
    comm::run_thread_ranks(first.layout.world(), [&](comm::CommFactory& factory) {
      Rank rank(first, factory);
      for (int i = 0; i < 2; ++i) rank.step(first);
      save(rank, temp / "a", {.step = 2});
    });
    comm::run_thread_ranks(second.layout.world(), [&](comm::CommFactory& factory) {
      Rank rank(second, factory, /*seed=*/9);
      train::restore(temp / "a", rank.units, *rank.optimizer);
      const train::StepResult r = rank.step(second);
      EXPECT_NEAR(r.loss, want.losses[2], 1e-12) << family.name;
      EXPECT_NEAR(r.grad_norm, want.norms[2], 1e-10) << family.name;
    });
  }
}

}  // namespace
}  // namespace conclave::ranks
