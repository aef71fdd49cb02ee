// Which tensors a run makes again in the backward, where memory does not hold all of them.
#pragma once
#include <string>
#include <vector>

#include "plan/memory.h"

namespace conclave::plan {

// The classes that are made again without a matrix product or attention, cheapest first.
const std::vector<std::string>& cheap_classes();
// Adds cheap classes to run.recompute: of those sets that make the forecast fit into `limit` bytes
// the one that moves the fewest to make them again; false, and all of them added, if none does.
bool fit_recompute(const ModelShape& model, TrainingRun& run, int64_t limit);

}  // namespace conclave::plan
