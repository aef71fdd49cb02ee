#include "recipes/merge.h"

#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/merge.h"
#include "checkpoint/run_folder.h"

namespace conclave::recipes {

void merge(const std::string& folder, const std::string& output) {
  std::error_code error;
  const std::filesystem::path from = std::filesystem::canonical(folder, error);  // past `latest`
  if (error) throw RunError(folder + ": expected a checkpoint's folder, found none");
  std::optional<checkpoint::RunFolder> run;  // a run that goes on may remove the checkpoint
  if (output.empty() && path_exists(from.parent_path() / ".lock"))
    run.emplace(from.parent_path(), /*keep_last=*/1);
  const std::filesystem::path to = output.empty() ? from : std::filesystem::path(output);
  checkpoint::merge_rank_files(from, to);
  log_info(to.string() + ": is a model folder now");
}

}  // namespace conclave::recipes
