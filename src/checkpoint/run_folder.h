// The output folder of a training run: a checkpoint a folder, `latest` and `best` pointing at two
// of them.
//   step-00000123/  a model folder with optimizer.safetensors and train_state.safetensors beside
//   the weights, and manifest.json latest, best    symbolic links, replaced in one step
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "checkpoint/manifest.h"
#include "checkpoint/save.h"
#include "checkpoint/shared_save.h"

namespace conclave::checkpoint {

struct FoundCheckpoint {
  int64_t step = 0;
  std::filesystem::path path;
};

// The checkpoint to go on from: what `latest` names, or without that link the one with the highest
// step; nothing if the folder is absent or holds none. When that one is damaged: RunError that says
// what is damaged, names the newest whole one before it, and how to go on from that: `resume_with`
// followed by its path, e.g. "--set resume=". Never another one silently.
std::optional<FoundCheckpoint> find_latest(const std::filesystem::path& run,
                                           Verify how = Verify::sizes,
                                           const std::string& resume_with = "--set resume=");

// How several ranks write a checkpoint: into the files of a model folder (shared_save.h), or each
// into one of its own (rank_files.h).
enum class Layout { shared, per_rank };

class RunFolder {
 public:
  // Makes the folder, takes its lock (RunError when another process trains there; released at exit
  // or death) and removes what killed runs left. keep_last ≥ 1. With `ranks` a run of several, each
  // with a RunFolder; making it is collective then, as is saving: rank 0 does all but write parts.
  // Where a thread saves, nobody else calls that group.
  RunFolder(std::filesystem::path path, int keep_last, comm::Comm* ranks = nullptr,
            Layout layout = Layout::shared);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path step_path(int64_t step) const;

  // Writes step-N, then points `best` (if it is) and `latest` at it, in this order, so that whoever
  // goes on from `latest` finds `best` right; then does retire_old(N).
  // Checkpoints with later steps (of a run that was set back) are not touched until they are saved
  // again. A RunError before `latest` moved leaves all earlier checkpoints as they were.
  void save(int64_t step, const FolderContents& contents, bool best = false);

  // The same by all ranks.
  void save(int64_t step, const SharedContents& contents, bool best = false);

  // Removes older checkpoints: of those with steps up to N the newest keep_last stay, and what
  // `best` names. Of several ranks rank 0 does it, without a call.
  void retire_old(int64_t step) const;

 private:
  void take();
  void remove_leftovers() const;
  void point(int64_t step, bool best) const;
  void retire(int64_t step) const;

  std::filesystem::path path_;
  int keep_last_;
  comm::Comm* ranks_;
  Layout layout_;
  int lock_fd_ = -1;
};

}  // namespace conclave::checkpoint
