#include "checkpoint/staging.h"

#include <csignal>

#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

std::string content(const fs::path& folder) { return read_file(folder / "f"); }

void make(const fs::path& folder, const std::string& text) {
  fs::create_directories(folder);
  write_text(folder / "f", text);
}

TEST(StagedFolder, AppearsWholeOrNotAtAll) {
  TempFolder dir;
  {
    StagedFolder staged(dir / "a/b/out/");
    write_text(staged.path() / "f", "1");
  }
  EXPECT_TRUE(names_in(dir / "a/b").empty());
  for (const char* text : {"1", "2"}) {
    StagedFolder staged(dir / "a/b/out/");
    write_text(staged.path() / "f", text);
    staged.commit();
    EXPECT_EQ(content(dir / "a/b/out"), text);
    EXPECT_EQ(names_in(dir / "a/b"), Names{"out"});
  }
}

TEST(StagedFolder, RefusesFilesAndLinksInItsPlace) {
  TempFolder dir;
  write_text(dir / "file", "");
  fs::create_directory_symlink("x", dir / "link");
  for (const char* name : {"file", "link"})
    EXPECT_CONTAINS(message_of([&] { StagedFolder staged(dir / name); }),
                    "expected a folder or nothing there");
  EXPECT_CONTAINS(message_of([&] { StagedFolder staged(dir / "file/out"); }), "file");
  for (const char* name : {".", "..", "", "/"})
    EXPECT_THROW(StagedFolder staged(name), RunError) << name;
}

TEST(PutInPlace, BothWaysReplaceTheOld) {
  for (Swap how : {Swap::exchange, Swap::two_renames}) {
    TempFolder dir;
    make(dir / "old", "old");
    make(dir / "fresh", "fresh");
    put_in_place(dir / "fresh", dir / "old", how);
    EXPECT_EQ(content(dir / "old"), "fresh");
    EXPECT_EQ(names_in(dir.path()), Names{"old"});
  }
}

TEST(PutInPlace, DeathAnywhereLeavesAWholeFolder) {
  for (Swap how : {Swap::exchange, Swap::two_renames})
    for (const char* point :
         {"save/between_renames", "save/after_rename", "save/after_old_removed"}) {
      SCOPED_TRACE(point);
      TempFolder dir;
      make(dir / "out", "old");
      const bool passes = how == Swap::two_renames || std::string(point) != "save/between_renames";
      EXPECT_EQ(in_child([&] {
                  setenv("CONCLAVE_KILL_AT", point, 1);
                  const fs::path staged = hidden_sibling(dir / "out", "tmp");
                  make(staged, "fresh");
                  put_in_place(staged, dir / "out", how);
                }),
                passes ? 128 + SIGKILL : 0);
      recover(dir / "out");
      EXPECT_EQ(content(dir / "out"),
                std::string(point) == "save/between_renames" && passes ? "old" : "fresh");
      EXPECT_EQ(names_in(dir.path()), Names{"out"});
    }
}

TEST(Recover, LeavesTheLivingAndOthersAlone) {
  TempFolder dir;
  const std::string alive = ".out.tmp-" + std::to_string(getppid());
  for (const std::string& name : {alive, std::string(".out.tmp-2147480000"),
                                  std::string(".out.tmp-x"), std::string(".out2.tmp-2147480000"),
                                  std::string("out.tmp-1"), std::string(".out.old-2147480000")})
    make(dir / name, name);
  make(dir / "out", "good");
  recover(dir / "out");
  Names want = {alive, ".out2.tmp-2147480000", "out", "out.tmp-1"};
  std::sort(want.begin(), want.end());
  EXPECT_EQ(names_in(dir.path()), want);
  EXPECT_EQ(content(dir / "out"), "good");
  recover(dir / "no such/folder");
}

TEST(ReplaceLink, MovesInOneStep) {
  TempFolder dir;
  replace_link(dir / "latest", "a");
  replace_link(dir / "latest", "b");
  EXPECT_EQ(fs::read_symlink(dir / "latest"), "b");
  EXPECT_EQ(names_in(dir.path()), Names{"latest"});
  EXPECT_THROW(replace_link(dir / "no such/latest", "a"), RunError);
}

}  // namespace
}  // namespace conclave::checkpoint
