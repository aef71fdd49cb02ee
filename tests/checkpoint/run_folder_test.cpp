#include "checkpoint/run_folder.h"

#include <sys/resource.h>

#include <csignal>

#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

FolderContents contents_of(int64_t step) {
  FolderContents contents{.config_json = "{}"};
  contents.tensors = {{"w", patterned({5000}, at::kFloat, static_cast<int>(step))}};
  contents.beside["train_state.safetensors"] = {
      {"step", patterned({}, at::kLong, static_cast<int>(step))}};
  return contents;
}

void expect_checkpoint(const fs::path& path, int64_t step) {
  EXPECT_EQ(find_damage(path, Verify::checksums), "") << path;
  expect_same(read_tensors(path / "model.safetensors").at("w"), contents_of(step).tensors[0].data);
}

Names visible(const fs::path& run) {
  Names names = names_in(run);
  std::erase_if(names, [](const std::string& name) { return name[0] == '.'; });
  return names;
}

TEST(RunFolder, KeepsTheLastAndTheBest) {
  TempFolder dir;
  RunFolder run(dir / "run", 2);
  EXPECT_FALSE(find_latest(dir / "run"));
  run.save(1, contents_of(1));
  run.save(2, contents_of(2), true);
  run.save(3, contents_of(3));
  run.save(4, contents_of(4));
  EXPECT_EQ(visible(dir / "run"),
            (Names{"best", "latest", "step-00000002", "step-00000003", "step-00000004"}));
  expect_checkpoint(dir / "run/best", 2);
  expect_checkpoint(dir / "run/latest", 4);
  run.save(5, contents_of(5), true);
  EXPECT_EQ(visible(dir / "run"), (Names{"best", "latest", "step-00000004", "step-00000005"}));
  const auto found = find_latest(dir / "run", Verify::checksums);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 5);
  EXPECT_EQ(found->path, run.step_path(5));
  run.save(123'456'789, contents_of(6));
  EXPECT_EQ(find_latest(dir / "run")->step, 123'456'789);
}

TEST(RunFolder, SetBackItGoesOnFromThereAndSparesWhatIsLater) {
  TempFolder dir;
  RunFolder run(dir / "run", 1);
  run.save(20, contents_of(20));
  run.save(10, contents_of(10));
  EXPECT_EQ(find_latest(dir / "run")->step, 10);
  run.save(11, contents_of(11));
  EXPECT_EQ(visible(dir / "run"), (Names{"latest", "step-00000011", "step-00000020"}));
  run.save(20, contents_of(21));
  EXPECT_EQ(visible(dir / "run"), (Names{"latest", "step-00000020"}));
  expect_checkpoint(dir / "run/latest", 21);
}

TEST(RunFolder, OneProcessAtATime) {
  TempFolder dir;
  {
    RunFolder run(dir / "run", 1);
    EXPECT_CONTAINS(message_of([&] { RunFolder other(dir / "run", 1); }),
                    "another process is training in this folder");
  }
  RunFolder again(dir / "run", 1);
  EXPECT_THROW(RunFolder(dir / "other", 0), c10::Error);
}

TEST(RunFolder, RemovesWhatTheDeadLeft) {
  TempFolder dir;
  fs::create_directories(dir / "run");
  for (const char* name : {".step-00000001.tmp-1", ".step-00000002.removed", ".step-00000003.old-1",
                           ".latest.tmp-1", ".best.tmp-7"})
    fs::create_directories(dir / "run" / name);
  for (const char* name : {".mine", ".step-x.tmp-1", "notes"}) write_text(dir / "run" / name, "");
  RunFolder run(dir / "run", 1);
  EXPECT_EQ(names_in(dir / "run"),
            (Names{".lock", ".mine", ".step-x.tmp-1", "notes", "step-00000003"}));
}

TEST(FindLatest, SaysWhichWholeOneComesBeforeADamagedOne) {
  TempFolder dir;
  const std::string run = dir / "run";
  {
    RunFolder folder(run, 5);
    for (int64_t step : {1, 2, 3, 4}) folder.save(step, contents_of(step));
  }
  fs::resize_file(run + "/step-00000004/model.safetensors", 100);
  const std::string message = message_of([&] { find_latest(run, Verify::sizes, "--set resume="); });
  EXPECT_CONTAINS(
      message,
      run + "/step-00000004: the newest checkpoint is damaged (model.safetensors: expected");
  EXPECT_CONTAINS(message, "add --set resume=" + run + "/step-00000003");

  fs::remove(run + "/step-00000003/train_state.safetensors");
  EXPECT_CONTAINS(message_of([&] { find_latest(run); }), run + "/step-00000002");
  std::string bytes = read_file(run + "/step-00000002/model.safetensors");
  bytes.back() ^= 1;
  write_text(run + "/step-00000002/model.safetensors", bytes);
  EXPECT_CONTAINS(message_of([&] { find_latest(run, Verify::sizes); }), "step-00000002");
  EXPECT_CONTAINS(message_of([&] { find_latest(run, Verify::checksums); }), "step-00000001");
  fs::remove_all(run + "/step-00000004");
  EXPECT_CONTAINS(message_of([&] { find_latest(run, Verify::checksums); }),
                  "the folder is not there");
  fs::remove_all(run + "/step-00000001");
  EXPECT_CONTAINS(message_of([&] { find_latest(run, Verify::checksums); }),
                  "no whole one before it");
}

TEST(FindLatest, LinksAreOptionalButMeanACheckpoint) {
  TempFolder dir;
  EXPECT_FALSE(find_latest(dir / "absent"));
  {
    RunFolder folder(dir / "run", 5);
    for (int64_t step : {9, 10}) folder.save(step, contents_of(step));
  }
  const std::string link = dir / "run/latest";
  fs::remove(link);
  EXPECT_EQ(find_latest(dir / "run")->step, 10);
  fs::create_directory_symlink("step-00000009/", link);
  EXPECT_EQ(find_latest(dir / "run")->step, 9);
  fs::remove(link);
  fs::create_directory_symlink("elsewhere", link);
  EXPECT_CONTAINS(message_of([&] { find_latest(dir / "run"); }), "expected a link to a checkpoint");
  write_text(dir / "file", "");
  EXPECT_THROW(find_latest(dir / "file"), RunError);
}

// Killed at each point of a save that follows two others (the third retires the first): the newest
// one found is whole, 2 or 3, as is best; going on from it ends as if nothing had been.
TEST(RunFolder, DeathAtEveryPointLeavesAWholeLatest) {
  for (const std::string point : kSaveFaultPoints)
    for (const char* passage : {"", ":3"})
      for (bool again : {false, true}) {  // again: step 3 is there already
        SCOPED_TRACE(point + passage + (again ? ", again" : ""));
        TempFolder dir;
        const std::string path = dir / "run";
        {
          RunFolder run(path, 2);
          run.save(1, contents_of(1), true);
          run.save(2, contents_of(2));
          if (again) run.save(3, contents_of(3));
        }
        const int status = in_child([&] {
          RunFolder run(path, 1);
          setenv("CONCLAVE_KILL_AT", (point + passage).c_str(), 1);
          run.save(3, contents_of(3), true);
        });
        EXPECT_TRUE(status == 0 || status == 128 + SIGKILL) << status;
        RunFolder run(path, 1);
        const auto found = find_latest(path, Verify::checksums);
        ASSERT_TRUE(found);
        EXPECT_TRUE(found->step == 2 || found->step == 3);
        expect_checkpoint(path + "/latest", found->step);
        const bool best = fs::read_symlink(path + "/best") == "step-00000003";
        expect_checkpoint(path + "/best", best ? 3 : 1);
        run.save(3, contents_of(3), true);
        expect_checkpoint(path + "/latest", 3);
        EXPECT_EQ(names_in(path), (Names{".lock", "best", "latest", "step-00000003"}));
      }
}

TEST(RunFolder, AFullDiskLeavesEarlierCheckpoints) {
  TempFolder dir;
  const std::string path = dir / "run";
  { RunFolder(path, 1).save(1, contents_of(1), true); }
  EXPECT_EQ(in_child([&] {
              RunFolder run(path, 1);
              std::signal(SIGXFSZ, SIG_IGN);
              const rlimit few{1000, 1000};
              setrlimit(RLIMIT_FSIZE, &few);
              try {
                run.save(2, contents_of(2), true);
              } catch (const RunError& error) {
                _exit(42);
              }
            }),
            42);
  EXPECT_EQ(names_in(path), (Names{".lock", "best", "latest", "step-00000001"}));
  EXPECT_EQ(find_latest(path, Verify::checksums)->step, 1);
}

TEST(RunFolder, AFileInItsPlace) {
  TempFolder dir;
  write_text(dir / "file", "");
  EXPECT_THROW(RunFolder(dir / "file", 1), RunError);
  EXPECT_THROW(RunFolder(dir / "file/run", 1), RunError);
}

}  // namespace
}  // namespace conclave::checkpoint
