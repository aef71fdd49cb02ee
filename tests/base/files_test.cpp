#include "base/files.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/temp_folder.h"

namespace conclave {
namespace {

size_t entries(const std::string& folder) {
  auto all = std::filesystem::directory_iterator(folder);
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

TEST(Files, ReadsWholeFiles) {
  TempFolder folder;
  std::string content(100'000, 'x');
  content[5] = '\0';
  for (size_t size :
       {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{4097}, content.size()})
    EXPECT_EQ(read_file(folder.write("a", content.substr(0, size))), content.substr(0, size));
  EXPECT_FALSE(read_file("/proc/self/status").empty());  // says it has no bytes
  EXPECT_EQ(read_file(folder.write("a", "12345"), 5), "12345");
  std::string file = folder / "a";
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, read_file(file, 4)),
            file + ": expected at most 4 bytes, got 5");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, read_file(folder / "no")),
            (folder / "no") + ": cannot open: No such file or directory; check the path");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, read_file(file + "/x")),
            file + "/x: cannot open: Not a directory; a part of the path is a file");
}

TEST(Files, WriteAtomicReplacesAsAWhole) {
  TempFolder folder;
  std::string file = folder / "a";
  write_file_atomic(file, "one");
  write_file_atomic(file, "two");
  EXPECT_EQ(TempFolder::read(file), "two");
  EXPECT_EQ(entries(folder.path()), 1u);
  EXPECT_THROW(write_file_atomic(folder / "no/a", "x"), RunError);
}

TEST(Files, AFailedWriteLeavesTheOldFileAndNoOther) {
  TempFolder folder;
  std::string file = folder.write("a", "old");
  pid_t child = ::fork();
  if (child == 0) {  // a file may grow to 1000 bytes only: write() fails as on a full disk
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomic(file, std::string(2000, 'x'));
    } catch (const RunError& error) {
      ::_exit(std::strstr(error.what(), ": cannot write: File too large") ? 7 : 8);
    }
    ::_exit(9);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
  EXPECT_EQ(TempFolder::read(file), "old");
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(Files, AFullDiskSaysWhatToDo) {
  if (!path_exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  OutputFile full("/dev/full");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, (full.write("x"), 0)),
            "/dev/full: cannot write: No space left on device; free some or choose another folder");
}

TEST(Files, OutputFileWritesFrontToBack) {
  TempFolder folder;
  OutputFile out(folder / "a");
  out.write("abc");
  out.write(std::string_view());
  out.write("de");
  EXPECT_EQ(out.size(), 5u);
  out.finish();
  EXPECT_EQ(TempFolder::read(folder / "a"), "abcde");
}

TEST(Files, MapsFiles) {
  TempFolder folder;
  MappedFile map(folder.write("a", "hello"));
  map.will_read_in_order();
  EXPECT_EQ(std::memcmp(map.bytes().data(), "hello", 5), 0);
  MappedFile moved(std::move(map));
  EXPECT_EQ(moved.bytes().size(), 5u);
  EXPECT_EQ(map.bytes().size(), 0u);  // NOLINT: what a move leaves is part of the contract
  moved = MappedFile(folder.write("b", ""));
  EXPECT_TRUE(moved.bytes().empty());
  moved.will_read_in_order();
  EXPECT_THROW(MappedFile(folder / "no"), RunError);
  EXPECT_THROW(MappedFile(folder.path()), RunError);
}

TEST(Files, Folders) {
  TempFolder folder;
  make_folder(folder / "x/y/z");
  make_folder(folder / "x/y/z/");
  fsync_folder(folder / "x/y");
  std::string file = folder.write("x/y/f", "123");
  fsync_path(file);
  EXPECT_EQ(file_size(file), 3u);
  EXPECT_THROW(make_folder(file), RunError);
  EXPECT_THROW(make_folder(file + "/g"), RunError);
  rename_path(folder / "x/y", folder / "y");
  EXPECT_TRUE(path_exists(folder / "y/z"));
  EXPECT_FALSE(path_exists(folder / "x/y"));
  EXPECT_FALSE(path_exists(file + "/g"));
  EXPECT_THROW(rename_path(folder / "no", folder / "no2"), RunError);
  remove_folder(folder / "y");
  remove_folder(folder / "y");
  EXPECT_FALSE(path_exists(folder / "y"));
  EXPECT_GT(free_space(folder.path()), 0u);
  EXPECT_GT(free_space(folder / "not/made/yet"), 0u);
}

TEST(Files, ParentFolder) {
  EXPECT_EQ(parent_folder("a/b"), "a");
  EXPECT_EQ(parent_folder("a/b//"), "a");
  EXPECT_EQ(parent_folder("a//b"), "a");
  EXPECT_EQ(parent_folder("b"), ".");
  EXPECT_EQ(parent_folder("b/"), ".");
  EXPECT_EQ(parent_folder("/b"), "/");
  EXPECT_EQ(parent_folder("/"), "/");
  EXPECT_EQ(parent_folder(""), ".");
}

// At each named point the file is the old or the new one, never a part.
TEST(Files, WriteAtomicSurvivesBeingKilledAtEachPoint) {
  for (auto [point, after] :
       {std::pair{"file.written", "old"}, {"file.synced", "old"}, {"file.renamed", "new"}}) {
    TempFolder folder;
    std::string file = folder.write("a", "old");
    pid_t child = ::fork();
    if (child == 0) {
      ::setenv("CONCLAVE_KILL_AT", point, 1);
      write_file_atomic(file, "new");
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << point;
    EXPECT_EQ(TempFolder::read(file), after) << point;
  }
}

}  // namespace
}  // namespace conclave
