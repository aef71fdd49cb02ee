#include "checkpoint/run_folder.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "base/files.h"
#include "base/text.h"
#include "checkpoint/agree.h"
#include "checkpoint/rank_files.h"
#include "checkpoint/staging.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string step_name(int64_t step) { return format("step-%08lld", static_cast<long long>(step)); }

// "step-00000123" → 123; −1 for any other name.
int64_t step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && stop == end && step >= 0 && name == step_name(step) ? step : -1;
}

std::vector<std::string> entries(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename());
  if (error && error != std::errc::no_such_file_or_directory)
    throw RunError(folder.string() + ": cannot list the folder: " + error.message());
  return names;
}

std::vector<int64_t> steps_in(const fs::path& run) {  // ascending
  std::vector<int64_t> steps;
  for (const std::string& name : entries(run))
    if (const int64_t step = step_of(name); step >= 0) steps.push_back(step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

int64_t linked_step(const fs::path& link) {  // −1: no such link
  std::error_code error;
  fs::path to = fs::read_symlink(link, error);
  if (error) return -1;
  if (!to.has_filename()) to = to.parent_path();  // "step-00000123/"
  const int64_t step = step_of(to.filename());
  if (step < 0)
    throw RunError(link.string() +
                   ": expected a link to a checkpoint step-NNNNNNNN, found one to " + to.string());
  return step;
}

}  // namespace

std::optional<FoundCheckpoint> find_latest(const fs::path& run, Verify how,
                                           const std::string& resume_with) {
  const std::vector<int64_t> steps = steps_in(run);
  const int64_t linked = linked_step(run / "latest");
  if (linked < 0 && steps.empty()) return std::nullopt;
  const int64_t newest = linked >= 0 ? linked : steps.back();
  const fs::path path = run / step_name(newest);
  if (!path_exists(path)) recover(path);
  const std::string damage = path_exists(path) ? find_damage(path, how) : "the folder is not there";
  if (damage.empty()) return FoundCheckpoint{newest, path};

  const std::string message =
      path.string() + ": the newest checkpoint is damaged (" + damage + "); ";
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const fs::path earlier = run / step_name(*step);
    if (*step < newest && find_damage(earlier, how).empty())
      throw RunError(message + "the newest whole one before it is " + earlier.filename().string() +
                     ": to go on from there add " + resume_with + earlier.string());
  }
  throw RunError(message + "there is no whole one before it; start again in another folder");
}

RunFolder::RunFolder(fs::path path, int keep_last, comm::Comm* ranks, Layout layout)
    : path_(std::move(path)), keep_last_(keep_last), ranks_(ranks), layout_(layout) {
  TORCH_CHECK(keep_last >= 1, "RunFolder: expected keep_last >= 1, got ", keep_last);
  if (ranks_)
    all_or_none(*ranks_, [&] {
      if (ranks_->rank() == 0) take();
    });
  else
    take();
}

void RunFolder::take() {
  make_folder(path_);
  const std::string lock = path_ / ".lock";
  lock_fd_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_fd_ < 0) throw_errno(lock, "create the file");
  try {
    if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      throw RunError(path_.string() +
                     ": another process is training in this folder; stop it or choose another one");
    remove_leftovers();
  } catch (...) {
    close(lock_fd_);
    throw;
  }
}

RunFolder::~RunFolder() {
  if (lock_fd_ >= 0) close(lock_fd_);
}

fs::path RunFolder::step_path(int64_t step) const { return path_ / step_name(step); }

// This process holds the lock, so whatever is hidden here belongs to the dead.
void RunFolder::remove_leftovers() const {
  for (const std::string& name : entries(path_)) {
    const size_t kind = name.find('.', 1);
    if (name[0] != '.' || kind == std::string::npos) continue;
    const std::string of = name.substr(1, kind - 1);
    if (step_of(of) < 0 && of != "latest" && of != "best") continue;
    if (name.compare(kind, 5, ".old-") == 0 && !path_exists(path_ / of))
      rename_path(path_ / name, path_ / of);
    else
      remove_folder(path_ / name);
  }
}

void RunFolder::save(int64_t step, const FolderContents& contents, bool best) {
  TORCH_CHECK(step >= 0 && !ranks_, "RunFolder: expected step >= 0 of one rank, got ", step);
  save_folder(step_path(step), contents);
  point(step, best);
}

void RunFolder::save(int64_t step, const SharedContents& contents, bool best) {
  TORCH_CHECK(step >= 0 && ranks_, "RunFolder: expected step >= 0 of several ranks, got ", step);
  if (layout_ == Layout::shared)
    save_folder(step_path(step), contents, *ranks_);
  else
    save_rank_files(step_path(step), contents, *ranks_);
  all_or_none(*ranks_, [&] {
    if (ranks_->rank() == 0) point(step, best);
  });
}

// Tells that step-N is there, and whether it is the best.
void RunFolder::point(int64_t step, bool best) const {
  if (best) {
    fault_point("save/before_best");
    replace_link(path_ / "best", step_name(step));
    fault_point("save/after_best");
  }
  fault_point("save/before_latest");
  replace_link(path_ / "latest", step_name(step));
  fault_point("save/after_latest");
  retire_old(step);
}

void RunFolder::retire_old(int64_t step) const {
  if (ranks_ && ranks_->rank() != 0) return;
  const std::vector<int64_t> steps = steps_in(path_);
  const int64_t best_step = linked_step(path_ / "best");
  int kept = 0;
  for (auto it = steps.rbegin(); it != steps.rend(); ++it)
    if (*it <= step && ++kept > keep_last_ && *it != best_step) retire(*it);
}

// Hidden first: a checkpoint that has its name is whole, also when the removal is interrupted.
void RunFolder::retire(int64_t step) const {
  const fs::path hidden = path_ / ("." + step_name(step) + ".removed");
  rename_path(step_path(step), hidden);
  fault_point("save/after_retire");
  remove_folder(hidden);
  fault_point("save/after_removal");
}

}  // namespace conclave::checkpoint
