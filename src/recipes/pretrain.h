// `conclave pretrain`: a model learns from text.
#pragma once
#include <string>
#include <vector>

namespace conclave::recipes {

// Returns the exit status: 0 at the end, 75 when a signal stopped it after saving. dry_run prints
// what would be done and does nothing; with it `svg`, if not empty, is a file for a picture of the
// ranks.
int pretrain(const std::string& config_path, const std::vector<std::string>& sets, bool dry_run,
             const std::string& svg);

}  // namespace conclave::recipes
