// `conclave merge`: a checkpoint that ranks wrote into a file each becomes a model folder.
#pragma once
#include <string>

namespace conclave::recipes {

// `output` empty: in place. A folder that is there is replaced if it is empty or a checkpoint.
// Throws RunError.
void merge(const std::string& folder, const std::string& output);

}  // namespace conclave::recipes
