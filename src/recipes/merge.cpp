#include "recipes/merge.h"

#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/manifest.h"
#include "checkpoint/merge.h"
#include "checkpoint/run_folder.h"

namespace conclave::recipes {
namespace {

namespace fs = std::filesystem;

// What is there would be gone with all that is in it.
void check_replaceable(const fs::path& to) {
  std::error_code ignored;
  if (!fs::is_directory(to, ignored) || fs::is_empty(to, ignored)) return;
  if (!path_exists(to / checkpoint::kManifestName))
    throw RunError(to.string() +
                   ": expected a checkpoint, an empty folder or nothing there, found other files; "
                   "choose another name");
}

}  // namespace

void merge(const std::string& folder, const std::string& output) {
  std::error_code error;
  const fs::path from = fs::canonical(folder, error);  // past `latest`
  if (error) throw RunError(folder + ": expected a checkpoint's folder, found none");
  const bool in_place = output.empty() || fs::equivalent(output, from, error);
  const fs::path to = in_place ? from : fs::path(output);
  std::optional<checkpoint::RunFolder> run;  // a run that goes on may remove the checkpoint
  if (in_place && path_exists(from.parent_path() / ".lock"))
    run.emplace(from.parent_path(), /*keep_last=*/1);
  if (!in_place) check_replaceable(to);
  checkpoint::merge_rank_files(from, to);
  log_info(to.string() + ": is a model folder now");
}

}  // namespace conclave::recipes
