// Folders that thread ranks write together: the bytes that one rank writes, whatever part of each
// tensor a rank holds; errors of one rank are those of all, and leave nothing.
#include "checkpoint/shared_save.h"

#include <algorithm>
#include <random>

#include "checkpoint/manifest.h"
#include "checkpoint/run_folder.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;

struct Whole {
  std::string name;
  at::Tensor data;  // as it lies here
  bool transposed;
};

const std::vector<Whole>& model() {
  static const std::vector<Whole> all = {
      {"embedding", patterned({7, 5}, at::kFloat, 1), false},
      {"experts.gate_up", patterned({3, 5, 8}, at::kBFloat16, 2), true},
      {"matrix", patterned({9, 4}, at::kDouble, 3), true},
      {"norm", patterned({11}, at::kBFloat16, 4), false},
      {"experts.down", patterned({3, 4, 5}, at::kFloat, 5), true},
      {"empty", patterned({0, 4}, at::kFloat, 6), false}};
  return all;
}

at::Tensor as_stored(const Whole& w) { return w.transposed ? w.data.transpose(-2, -1) : w.data; }

FolderContents by_one(int64_t max_shard_bytes) {
  FolderContents c;
  c.config_json = "{}";
  for (const Whole& w : model()) c.tensors.push_back({w.name, as_stored(w)});
  for (const Whole& w : model())
    c.beside["optimizer.safetensors"].push_back({w.name + ".m", as_stored(w)});
  c.files["tokenizer.json"] = "[1]";
  c.max_shard_bytes = max_shard_bytes;
  return c;
}

// Each tensor in `ranks` ranges at random places, some empty; this rank's. A rank without elements
// may say so with an empty tensor or with none.
SharedContents by_rank(int rank, int ranks, int64_t max_shard_bytes, unsigned seed) {
  std::mt19937 draw(seed);
  SharedContents c;
  c.config_json = "{}";
  const auto part = [&](const Whole& w, const std::string& suffix) {
    std::vector<int64_t> cuts{0, w.data.numel()};
    for (int r = 1; r < ranks; ++r)
      cuts.push_back(static_cast<int64_t>(draw()) % (w.data.numel() + 1));
    std::sort(cuts.begin(), cuts.end());
    const int64_t first = cuts[static_cast<size_t>(rank)],
                  n = cuts[static_cast<size_t>(rank) + 1] - first;
    TensorPart p{w.name + suffix, w.data.scalar_type(), w.data.sizes().vec(), w.transposed};
    if (n > 0 || rank % 2 == 0) p.data = w.data.view({-1}).narrow(0, first, n), p.first = first;
    return p;
  };
  for (const Whole& w : model()) c.tensors.push_back(part(w, ""));
  for (const Whole& w : model()) c.beside["optimizer.safetensors"].push_back(part(w, ".m"));
  c.files["tokenizer.json"] = "[1]";
  c.max_shard_bytes = max_shard_bytes;
  return c;
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename() != kManifestName)
      files[entry.path().filename()] = read_file(entry.path());
  return files;
}

TEST(SharedSave, WritesTheBytesThatOneRankWrites) {
  const TempFolder temp;
  for (const int64_t max_bytes : {int64_t{1} << 40, int64_t{300}}) {
    save_folder(temp / "one", by_one(max_bytes));
    const auto want = files_of(temp / "one");
    for (int ranks = 1; ranks <= 6; ++ranks)
      for (unsigned seed = 0; seed < 5; ++seed) {
        comm::run_threads(ranks, [&](comm::Comm& comm) {
          save_folder(temp / "many", by_rank(comm.rank(), ranks, max_bytes, seed), comm);
        });
        EXPECT_EQ(files_of(temp / "many"), want) << ranks << " ranks, seed " << seed;
        EXPECT_EQ(find_damage(temp / "many", Verify::checksums), "");
      }
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(temp.path()), fs::directory_iterator()), 2);
}

TEST(SharedSave, AFlippedByteIsFoundInEveryPart) {
  const TempFolder temp;
  comm::run_threads(3, [&](comm::Comm& comm) {
    save_folder(temp / "a", by_rank(comm.rank(), 3, int64_t{1} << 40, 7), comm);
  });
  const fs::path file = temp / "a" / "model.safetensors";
  const std::string good = read_file(file);
  for (size_t at = 0; at < good.size(); at += 13) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    write_file_atomic(file, bad);
    EXPECT_NE(find_damage(temp / "a", Verify::checksums).find("model.safetensors: bytes "),
              std::string::npos);
  }
  write_file_atomic(file, good);
  EXPECT_EQ(find_damage(temp / "a", Verify::checksums), "");
}

// What each rank throws; the old folder stays, and nothing beside it.
std::vector<std::string> errors_of(const TempFolder& temp, int ranks,
                                   const std::function<SharedContents(int)>& contents) {
  save_folder(temp / "a", by_one(1000));
  const auto before = files_of(temp / "a");
  std::vector<std::string> errors(static_cast<size_t>(ranks));
  comm::run_threads(ranks, [&](comm::Comm& comm) {
    try {
      save_folder(temp / "a", contents(comm.rank()), comm);
    } catch (const RunError& e) {
      errors[static_cast<size_t>(comm.rank())] = e.what();
    }
  });
  EXPECT_EQ(files_of(temp / "a"), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(temp.path()), fs::directory_iterator()), 1);
  return errors;
}

TEST(SharedSave, AnErrorOfOneRankIsThatOfAll) {
  const TempFolder temp;
  const auto errors = errors_of(temp, 3, [](int rank) {
    SharedContents c = by_rank(rank, 3, 1000, 1);
    if (rank == 2) c.tensors[0].shape = {5, 7};
    return c;
  });
  for (const auto& e : errors)
    EXPECT_EQ(
        e,
        "rank 2: this rank would save other tensors than rank 0; expected the same names, types "
        "and shapes on all");
}

TEST(SharedSave, ElementsOfNoRankOrOfTwoAreRefused) {
  const TempFolder temp;
  for (bool twice : {false, true}) {
    EXPECT_THROW(comm::run_threads(2,
                                   [&](comm::Comm& comm) {
                                     SharedContents c = by_rank(comm.rank(), 2, 1000, 1);
                                     TensorPart& norm = c.tensors[3];
                                     norm.data = at::Tensor();
                                     if (twice || comm.rank() == 0) norm.data = model()[3].data;
                                     if (!twice) norm.data = at::Tensor();
                                     norm.first = 0;
                                     save_folder(temp / "a", c, comm);
                                   }),
                 c10::Error);
    EXPECT_FALSE(path_exists(temp / "a"));
  }
}

TEST(SharedSave, ARunOfSeveralRanksKeepsItsCheckpoints) {
  const TempFolder temp;
  comm::run_threads(2, [&](comm::Comm& comm) {
    RunFolder folder(temp / "run", 2, &comm);
    for (int64_t step : {1, 2, 3})
      folder.save(step, by_rank(comm.rank(), 2, 1000, static_cast<unsigned>(step)), step == 2);
    EXPECT_EQ(find_latest(temp / "run", Verify::checksums)->step, 3);
    EXPECT_FALSE(path_exists(folder.step_path(1)));
    EXPECT_EQ(fs::read_symlink(temp / "run" / "best"), "step-00000002");
  });
}

}  // namespace
}  // namespace conclave::checkpoint
