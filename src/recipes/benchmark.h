// `conclave benchmark`: how fast one rank of a published layout trains.
#pragma once
#include <string>
#include <vector>

namespace conclave::recipes {

// dry_run prints the model's FLOPs, the rank's share and its memory forecast at full size, and
// allocates no weights. A run prints a line a step and a table; without a GPU it is a smaller one,
// and says how. Returns the exit status.
int benchmark(const std::string& config_path, const std::vector<std::string>& sets, bool dry_run);

}  // namespace conclave::recipes
