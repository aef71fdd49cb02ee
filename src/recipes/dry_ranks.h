// What `pretrain --dry-run` says of a run on several ranks: what a rank holds, and what it sends in
// a step.
#pragma once
#include <string>

#include "base/config.h"
#include "recipes/pretrain_config.h"

namespace conclave::recipes {

struct ModelChoice;

// For dp_replicate · dp_shard ranks, as the config gives them, of one node; empty for one rank.
// Tokens are routed evenly. The first and the last rank are run dry and compared.
std::string ranks_page(const PretrainConfig& config, const ModelChoice& choice);

}  // namespace conclave::recipes
