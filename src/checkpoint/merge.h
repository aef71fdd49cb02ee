// One file a rank (rank_files.h) to a model folder.
#pragma once
#include <filesystem>

namespace conclave::checkpoint {

// Joins the rank files of `folder` into the files that all ranks would have written together
// (shared_save.h), manifest.json included, to the byte, and puts them at `target`, which may be
// `folder` itself: it is replaced in one step, whole or not at all. Checksums are checked first.
// Needs disk for the new files beside the old ones; memory for one matrix that several ranks cut.
// Throws RunError.
void merge_rank_files(const std::filesystem::path& folder, const std::filesystem::path& target);

}  // namespace conclave::checkpoint
