#include "checkpoint/staging.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "base/files.h"
#include "base/text.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;

// "a/b/" and "a/b/." name the same folder as "a/b".
fs::path without_slash(const fs::path& path) {
  fs::path normal = path.lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();
  if (normal.empty() || !normal.has_filename() || normal == "." || normal.filename() == "..")
    throw RunError(path.string() + ": expected the name of a folder to write, got none");
  return normal.has_parent_path() ? normal : "." / normal;
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(fs::symlink_status(path, ignored));
}

// Of ".NAME.KIND-PID": whether process PID, other than this one, lives. A name without a number is
// nobody's.
bool owner_lives(const std::string& name) {
  const char* begin = name.data() + name.rfind('-') + 1;
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), pid);
  if (error != std::errc() || pid <= 0 || pid == getpid()) return false;
  return kill(pid, 0) == 0 || errno == EPERM;
}

std::vector<fs::path> hidden_siblings(const fs::path& target, const char* kind) {
  std::vector<fs::path> found;
  const std::string prefix = format(".%s.%s-", target.filename().c_str(), kind);
  std::error_code error;
  for (fs::directory_iterator it(target.parent_path(), error), end; !error && it != end;
       it.increment(error))
    if (it->path().filename().string().starts_with(prefix)) found.push_back(it->path());
  return found;
}

}  // namespace

namespace {

fs::path sibling_of(const fs::path& target, const char* kind, int owner) {
  return target.parent_path() / format(".%s.%s-%d", target.filename().c_str(), kind, owner);
}

}  // namespace

fs::path hidden_sibling(const fs::path& target, const char* kind) {
  return sibling_of(target, kind, static_cast<int>(getpid()));
}

fs::path staged_path(const fs::path& target, int owner) {
  return sibling_of(without_slash(target), "tmp", owner);
}

StagedFolder::StagedFolder(const fs::path& target) : target_(without_slash(target)) {
  std::error_code ignored;
  const auto there = fs::symlink_status(target_, ignored);
  if (fs::exists(there) && !fs::is_directory(there))
    throw RunError(
        target_.string() +
        ": expected a folder or nothing there, found a file or link; choose another name");
  recover(target_);
  path_ = hidden_sibling(target_, "tmp");
  make_folder(target_.parent_path());
  if (mkdir(path_.c_str(), 0777) != 0) throw_errno(path_, "create the folder");
  fault_point("save/after_mkdir");
}

StagedFolder::~StagedFolder() {
  if (committed_) return;
  std::error_code ignored;  // a full or failing disk already gave its message
  fs::remove_all(path_, ignored);
}

void StagedFolder::commit() {
  fsync_folder(path_);
  fault_point("save/before_rename");
  put_in_place(path_, target_);
  committed_ = true;
}

void put_in_place(const fs::path& staged, const fs::path& target, Swap how) {
  if (!is_folder(target)) {
    rename_path(staged, target);
    fault_point("save/after_rename");
    return;
  }
  fs::path old = staged;
  if (how == Swap::two_renames ||
      renameat2(AT_FDCWD, staged.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
    old = hidden_sibling(target, "old");
    rename_path(target, old);
    fault_point("save/between_renames");
    try {
      rename_path(staged, target);
    } catch (...) {
      rename_path(old, target);
      throw;
    }
  }
  fsync_folder(target.parent_path());
  fault_point("save/after_rename");
  remove_folder(old);
  fault_point("save/after_old_removed");
}

void recover(const fs::path& path) {
  const fs::path target = without_slash(path);
  for (const fs::path& old : hidden_siblings(target, "old")) {
    if (owner_lives(old.filename())) continue;
    if (is_folder(target))
      remove_folder(old);
    else
      rename_path(old, target);
  }
  for (const fs::path& left : hidden_siblings(target, "tmp"))
    if (!owner_lives(left.filename())) remove_folder(left);
}

void replace_link(const fs::path& link, const std::string& to) {
  const fs::path staged = hidden_sibling(link, "tmp");
  unlink(staged.c_str());
  if (symlink(to.c_str(), staged.c_str()) != 0) throw_errno(staged, "create the link");
  rename_path(staged, link);
}

}  // namespace conclave::checkpoint
