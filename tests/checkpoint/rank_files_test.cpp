// One file a rank: what merge makes of it is what a shared save writes, to the byte; any part of
// any tensor is read from it; what is missing, twice or damaged is refused.
#include "checkpoint/rank_files.h"

#include "checkpoint/folder.h"
#include "checkpoint/merge.h"
#include "checkpoint/parts.h"
#include "checkpoint/run_folder.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;

void save(const fs::path& target, int ranks, int64_t max_shard_bytes, unsigned seed) {
  comm::run_threads(ranks, [&](comm::Comm& comm) {
    save_rank_files(target, by_rank(comm.rank(), ranks, max_shard_bytes, seed), comm);
  });
}

std::map<std::string, std::string> with_manifest(const fs::path& folder) {
  auto files = files_of(folder);
  files[kManifestName] = read_file(folder / kManifestName);
  return files;
}

TEST(RankFiles, MergedTheyAreWhatASharedSaveWrites) {
  const TempFolder temp;
  for (const int64_t max_bytes : {int64_t{1} << 40, int64_t{300}})
    for (int ranks = 1; ranks <= 6; ++ranks)
      for (unsigned seed = 0; seed < 4; ++seed) {
        comm::run_threads(ranks, [&](comm::Comm& comm) {
          save_folder(temp / "shared", by_rank(comm.rank(), ranks, max_bytes, seed), comm);
        });
        save(temp / "ranks", ranks, max_bytes, seed);
        EXPECT_EQ(find_damage(temp / "ranks", Verify::checksums), "");
        EXPECT_TRUE(has_rank_files(temp / "ranks"));
        const auto want = with_manifest(temp / "shared");
        merge_rank_files(temp / "ranks", temp / "merged");
        EXPECT_TRUE(with_manifest(temp / "merged") == want) << ranks << " ranks, seed " << seed;
        merge_rank_files(temp / "ranks", temp / "ranks");
        EXPECT_TRUE(with_manifest(temp / "ranks") == want) << ranks << " ranks, seed " << seed;
        EXPECT_FALSE(has_rank_files(temp / "ranks"));
      }
  EXPECT_EQ(names_in(temp.path()), (std::vector<std::string>{"merged", "ranks", "shared"}));
}

TEST(RankFiles, AnyPartOfATensorIsRead) {
  const TempFolder temp;
  std::mt19937 draw(1);
  for (unsigned seed = 0; seed < 5; ++seed) {
    save(temp / "a", 4, 1000, seed);
    const RankFiles files(temp / "a");
    EXPECT_EQ(files.ranks(), 4);
    EXPECT_EQ(files.contents().config_json, "{}");
    EXPECT_EQ(files.contents().files.at("tokenizer.json"), "[1]");
    for (const Whole& w : model()) {
      const at::Tensor flat = w.data.view({-1});
      for (int i = 0; i < 10; ++i) {
        int64_t first = static_cast<int64_t>(draw()) % (flat.numel() + 1),
                last = static_cast<int64_t>(draw()) % (flat.numel() + 1);
        if (first > last) std::swap(first, last);
        const at::Tensor into = patterned({last - first}, w.data.scalar_type(), 99);
        const LoadTarget target{w.name, w.data.sizes().vec(), into, first, w.transposed};
        load_tensors(files, "", {&target, 1});
        expect_same(into, flat.narrow(0, first, last - first));
      }
    }
    const auto moments = files.read("optimizer.safetensors");
    ASSERT_EQ(moments.size(), model().size());
    for (const Whole& w : model()) expect_same(moments.at(w.name + ".m"), w.data);
  }
}

TEST(RankFiles, WhatDoesNotFitIsNamed) {
  const TempFolder temp;
  save(temp / "a", 2, 1000, 1);
  const RankFiles files(temp / "a");
  const auto error = [&](const std::string& of, const LoadTarget& target) {
    return message_of([&] { load_tensors(files, of, {&target, 1}); });
  };
  const at::Tensor into = patterned({11}, at::kBFloat16, 1);
  EXPECT_CONTAINS(error("", {"nrm", {11}, into}), "expected tensor `nrm`, found none");
  EXPECT_CONTAINS(error("", {"norm", {1, 11}, into}),
                  "`norm`: expected BF16 [1, 11], found BF16 [11]");
  EXPECT_CONTAINS(error("", {"norm", {11}, patterned({11}, at::kFloat, 1)}),
                  "`norm`: expected F32 [11], found BF16 [11]");
  EXPECT_CONTAINS(error("momenta.safetensors", {"norm", {11}, into}),
                  "expected tensors of momenta.safetensors");
  EXPECT_CONTAINS(message_of([&] { HfFolder folder(temp / "a"); }), "conclave merge");
  save_folder(temp / "one", by_one(1000));
  EXPECT_CONTAINS(message_of([&] { merge_rank_files(temp / "one", temp / "b"); }),
                  "expected a checkpoint in one file a rank");
}

TEST(RankFiles, ElementsOfNoRankOrOfTwoAreRefused) {
  const TempFolder temp;
  for (bool twice : {false, true}) {
    std::string error;
    comm::run_threads(2, [&](comm::Comm& comm) {
      SharedContents c = by_rank(comm.rank(), 2, 1000, 1);
      TensorPart& norm = c.tensors[3];
      norm.data = twice ? model()[3].data : at::Tensor();
      norm.first = 0;
      const std::string said = message_of([&] { save_rank_files(temp / "a", c, comm); });
      if (comm.rank() == 1) error = said;
    });
    EXPECT_CONTAINS(error,
                    twice ? "`norm`: two ranks hold element 0" : "`norm`: no rank holds element 0");
    EXPECT_TRUE(names_in(temp.path()).empty());
  }
}

TEST(RankFiles, ADamagedFileIsNotMerged) {
  const TempFolder temp;
  save(temp / "a", 3, 1000, 1);
  const fs::path file = temp / "a" / "rank-00001-of-00003.safetensors";
  std::string bytes = read_file(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file_atomic(file, bytes);
  EXPECT_CONTAINS(message_of([&] { merge_rank_files(temp / "a", temp / "a"); }),
                  "damaged: rank-00001-of-00003.safetensors: expected checksum");
  EXPECT_TRUE(has_rank_files(temp / "a"));
  fs::remove(file);
  EXPECT_CONTAINS(message_of([&] { RankFiles files(temp / "a"); }), file.filename().string());
}

TEST(RankFiles, ARunKeepsThemAsCheckpoints) {
  const TempFolder temp;
  comm::run_threads(2, [&](comm::Comm& comm) {
    RunFolder folder(temp / "run", 2, &comm, Layout::per_rank);
    for (int64_t step : {1, 2, 3})
      folder.save(step, by_rank(comm.rank(), 2, 1000, static_cast<unsigned>(step)), step == 2);
    EXPECT_EQ(find_latest(temp / "run", Verify::checksums)->step, 3);
    EXPECT_TRUE(has_rank_files(folder.step_path(3)));
    EXPECT_FALSE(path_exists(folder.step_path(1)));
  });
}

}  // namespace
}  // namespace conclave::checkpoint
