// Folders that thread ranks write together: the bytes that one rank writes, whatever part of each
// tensor a rank holds; errors of one rank are those of all, and leave nothing.
#include "checkpoint/shared_save.h"

#include "checkpoint/manifest.h"
#include "checkpoint/parts.h"
#include "checkpoint/run_folder.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;

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

// A broken contract is no RunError where it is found, and yet an error of all.
TEST(SharedSave, ElementsOfNoRankOrOfTwoAreRefused) {
  const TempFolder temp;
  for (bool twice : {false, true}) {
    const auto errors = errors_of(temp, 2, [&](int rank) {
      SharedContents c = by_rank(rank, 2, 1000, 1);
      c.tensors[3].data = twice ? model()[3].data : at::Tensor();
      c.tensors[3].first = 0;
      return c;
    });
    for (const auto& e : errors)
      EXPECT_EQ(e, twice ? "rank 0: model.safetensors: two ranks wrote byte 1356"
                         : "rank 0: model.safetensors: bytes 1356 to 1378 were written by no rank");
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
