// A model folder to disk, whole or not at all. It is written under a hidden name beside the target
// (.NAME.tmp-PID), each file fsynced, closed with manifest.json (size and XXH3 of each file), and
// then put in place by one rename; a good folder at the target survives whatever happens before
// that.
#pragma once
#include <array>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace conclave::checkpoint {

struct FolderContents {
  std::string config_json;           // config.json, as text
  std::vector<NamedTensor> tensors;  // the model's weights
  std::map<std::string, std::vector<NamedTensor>>
      beside;                                // e.g. optimizer.safetensors, train_state.safetensors
  std::map<std::string, std::string> files;  // further files: name → bytes (tokenizer.json, …)
  int64_t max_shard_bytes = 5'000'000'000;   // of tensors in one model file
};

// generation_config.json, the tokenizer's files and Python sources (`auto_map` of config.json names
// those) of a model folder, as far as they are there: what FolderContents::files carries from an
// imported model to its export.
std::map<std::string, std::string> read_companion_files(const std::filesystem::path& folder);

// Writes model.safetensors, or model-00001-of-0000N.safetensors with model.safetensors.index.json
// when the tensors exceed max_shard_bytes (a tensor is never cut; shards are filled in order of
// `tensors`), and all else of `contents`. Parent folders are made. An existing folder at `target`
// is replaced; anything else there is an error. Throws RunError when the disk refuses, with the
// temporary folder removed and the target as it was.
void save_folder(const std::filesystem::path& target, const FolderContents& contents);

// Every fault_point() that a save passes; those from before_latest on only in a run's folder
// (run_folder.h). between_renames is passed where the file system cannot exchange two names
// (staging.h).
inline constexpr std::array kSaveFaultPoints = {
    "save/after_mkdir",   "save/after_write",     "save/after_fsync",   "save/after_manifest",
    "save/before_rename", "save/between_renames", "save/after_rename",  "save/after_old_removed",
    "save/before_best",   "save/after_best",      "save/before_latest", "save/after_latest",
    "save/after_retire",  "save/after_removal",
};

}  // namespace conclave::checkpoint
