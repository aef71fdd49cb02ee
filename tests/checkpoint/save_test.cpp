#include "checkpoint/save.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "checkpoint/folder.h"
#include "checkpoint/manifest.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

FolderContents contents_of(int seed, int64_t elements = 1000) {
  FolderContents contents{.config_json = "{\"seed\": " + std::to_string(seed) + "}\n"};
  for (int i = 0; i < 4; ++i)
    contents.tensors.push_back(
        {"w" + std::to_string(i), patterned({elements}, at::kFloat, seed + i)});
  contents.beside["optimizer.safetensors"] = {{"w0.m", patterned({elements}, at::kFloat, seed)}};
  contents.files["tokenizer.json"] = "{}";
  return contents;
}

// The folder holds exactly what contents_of(seed) says.
void expect_saved(const fs::path& path, int seed, int64_t elements = 1000) {
  const FolderContents contents = contents_of(seed, elements);
  EXPECT_EQ(find_damage(path, Verify::checksums), "");
  const HfFolder folder(path);
  EXPECT_EQ(folder.config_json(), contents.config_json);
  ASSERT_EQ(folder.tensors().size(), contents.tensors.size());
  for (const NamedTensor& tensor : contents.tensors)
    expect_same(folder.tensors().at(tensor.name).file->view(tensor.name), tensor.data);
  expect_same(read_tensors(path / "optimizer.safetensors").at("w0.m"),
              contents.beside.begin()->second[0].data);
}

TEST(Save, OneFile) {
  TempFolder dir;
  save_folder(dir / "out", contents_of(1));
  expect_saved(dir / "out", 1);
  EXPECT_EQ(names_in(dir / "out"), (Names{"config.json", "manifest.json", "model.safetensors",
                                          "optimizer.safetensors", "tokenizer.json"}));
  EXPECT_EQ(names_in(dir.path()), Names{"out"});
  EXPECT_EQ(SafetensorsFile(dir / "out/model.safetensors").metadata().at("format"), "pt");
  save_folder(dir / "out", contents_of(2));
  expect_saved(dir / "out", 2);
  EXPECT_EQ(names_in(dir.path()), Names{"out"});
}

TEST(Save, Shards) {
  TempFolder dir;
  FolderContents contents = contents_of(1);
  contents.max_shard_bytes = 8000;  // two tensors of 4000
  contents.tensors.push_back({"large", patterned({5000}, at::kFloat, 9)});
  save_folder(dir / "out", contents);
  const auto index = read_json(dir / "out/model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 4 * 4000 + 20000);
  EXPECT_EQ(index["weight_map"]["w1"], "model-00001-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["w2"], "model-00002-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["large"], "model-00003-of-00003.safetensors");
  const HfFolder folder(dir / "out");
  EXPECT_EQ(folder.files().size(), 3u);
  EXPECT_EQ(folder.tensor_bytes(), 36000);
  EXPECT_EQ(find_damage(dir / "out", Verify::checksums), "");
  contents.tensors.push_back({"w0", patterned({1}, at::kFloat, 1)});
  EXPECT_THROW(save_folder(dir / "out", contents), c10::Error);
  EXPECT_EQ(names_in(dir.path()), Names{"out"});
}

TEST(Save, NoTensors) {
  TempFolder dir;
  save_folder(dir / "out", FolderContents{.config_json = "{}"});
  EXPECT_TRUE(HfFolder(dir / "out").tensors().empty());
}

TEST(Save, EqualContentsMakeEqualBytesAndSurviveTheWayBack) {
  TempFolder dir;
  save_folder(dir / "a", contents_of(1));
  FolderContents again{.config_json = HfFolder(dir / "a").config_json(),
                       .files = read_companion_files(dir / "a")};
  for (const auto& [name, tensor] : read_tensors(dir / "a/model.safetensors"))
    again.tensors.push_back({name, tensor});
  again.beside["optimizer.safetensors"] = {
      {"w0.m", read_tensors(dir / "a/optimizer.safetensors").at("w0.m")}};
  save_folder(dir / "b", again);
  for (const std::string& name : names_in(dir / "a"))
    EXPECT_TRUE(read_file(dir / ("a/" + name)) == read_file(dir / ("b/" + name))) << name;
}

TEST(Save, RefusesNamesThatAreTakenOrLeaveTheFolder) {
  TempFolder dir;
  for (const char* name :
       {"../x", "a/b", "", ".x", "config.json", "manifest.json", "model.safetensors"}) {
    FolderContents contents = contents_of(1);
    contents.files[name] = "x";
    EXPECT_THROW(save_folder(dir / "out", contents), c10::Error) << name;
    EXPECT_TRUE(names_in(dir.path()).empty());
  }
}

// Killed at each point's first passages, with and without a folder that was there: afterwards the
// target is whole, old or new, and the next save leaves nothing else behind.
TEST(Save, DeathAtEveryPointLeavesTheOldOrTheNew) {
  for (const std::string point : kSaveFaultPoints)
    for (const char* passage : {"", ":2", ":5"})
      for (bool replaces : {false, true}) {
        SCOPED_TRACE(point + passage + (replaces ? ", replacing" : ""));
        TempFolder dir;
        if (replaces) save_folder(dir / "out", contents_of(1));
        const int status = in_child([&] {
          setenv("CONCLAVE_KILL_AT", (point + passage).c_str(), 1);
          save_folder(dir / "out", contents_of(2));
        });
        EXPECT_TRUE(status == 0 || status == 128 + SIGKILL) << status;
        const bool renamed =
            status == 0 || point == "save/after_rename" || point == "save/after_old_removed";
        if (renamed || replaces)
          expect_saved(dir / "out", renamed ? 2 : 1);
        else
          EXPECT_FALSE(fs::exists(dir / "out"));
        save_folder(dir / "out", contents_of(3));
        expect_saved(dir / "out", 3);
        EXPECT_EQ(names_in(dir.path()), Names{"out"});
      }
}

// Files may have at most so many bytes: each write beyond is refused as on a full disk.
TEST(Save, AFullDiskLeavesTheOldAndNoRest) {
  TempFolder dir;
  save_folder(dir / "out", contents_of(1));
  for (rlim_t limit : {0u, 10u, 1000u, 10'000u}) {
    EXPECT_EQ(in_child([&] {
                std::signal(SIGXFSZ, SIG_IGN);
                const rlimit few{limit, limit};
                setrlimit(RLIMIT_FSIZE, &few);
                try {
                  save_folder(dir / "out", contents_of(2));
                } catch (const RunError& error) {
                  _exit(contains(error.what(), "cannot write") ? 42 : 43);
                }
              }),
              42);
    expect_saved(dir / "out", 1);
    EXPECT_EQ(names_in(dir.path()), Names{"out"});
  }
}

// A file system of 2 MB and one that turned read-only, where this may be mounted.
TEST(Save, ASmallAndAReadOnlyFileSystem) {
  TempFolder dir;
  fs::create_directory(dir / "disk");
  const std::string disk = dir / "disk";
  const int status = in_child([&] {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=2m") != 0)
      _exit(77);
    save_folder(disk + "/out", contents_of(1));
    const auto refused = [&](int64_t elements) -> std::string {
      try {
        save_folder(disk + "/out", contents_of(2, elements));
      } catch (const RunError& error) {
        return error.what();
      }
      return "";
    };
    if (!contains(refused(1'000'000), "No space left on device; free some")) _exit(2);
    if (names_in(disk) != Names{"out"}) _exit(3);
    if (mount("none", disk.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) _exit(77);
    if (!contains(refused(1000), "Read-only file system; choose a folder that can be written"))
      _exit(4);
    if (names_in(disk) != Names{"out"} || !find_damage(disk + "/out", Verify::checksums).empty())
      _exit(5);
  });
  if (status == 77) GTEST_SKIP() << "this process may not mount a small file system";
  EXPECT_EQ(status, 0);
}

TEST(Save, AFileInPlaceOfAParent) {
  TempFolder dir;
  write_text(dir / "file", "");
  EXPECT_THROW(save_folder(dir / "file/out", contents_of(1)), RunError);
  EXPECT_THROW(save_folder(dir / "file", contents_of(1)), RunError);
}

TEST(Companions, AreThoseThatAreThere) {
  TempFolder dir;
  write_text(dir / "tokenizer.json", "{}");
  write_text(dir / "generation_config.json", "{ }");
  write_text(dir / "modeling_deepseek.py", "pass");
  write_text(dir / ".hidden.py", "");
  write_text(dir / "README.md", "");
  EXPECT_EQ(read_companion_files(dir.path()),
            (std::map<std::string, std::string>{{"tokenizer.json", "{}"},
                                                {"generation_config.json", "{ }"},
                                                {"modeling_deepseek.py", "pass"}}));
  EXPECT_TRUE(read_companion_files(dir / "absent").empty());
}

}  // namespace
}  // namespace conclave::checkpoint
