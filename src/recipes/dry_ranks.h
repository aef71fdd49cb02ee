// What `pretrain --dry-run` says of a run on several ranks: what a rank holds, and what it sends in
// a step.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "comm/capacity.h"
#include "comm/dry.h"
#include "nn/decoder.h"
#include "plan/memory.h"
#include "plan/rank_picture.h"
#include "recipes/pretrain_config.h"

namespace conclave::recipes {

struct ModelChoice;

// Ranks that a node is taken to have where no launcher says and the run fills such nodes.
constexpr int kRanksOfNode = 8;

struct DryUnits {                   // units of one kind
  std::string name;                 // layers.*.experts
  int64_t count = 0, elements = 0;  // how many, and of each, padded
  std::string group;                // over whose ranks they are cut
  int ranks = 1;
};

struct DryRanks {
  comm::RankLayout layout;
  std::vector<DryUnits> units;             // in the order in which they come first
  int64_t experts = 0;                     // of a layer
  comm::Ledger ledger;                     // of a step of any rank
  std::optional<comm::Capacity> capacity;  // where the config has one: what it begins with
  // Bytes that stay on a rank, the same on each: weights, gradients, and of those that are cut the
  // gathered weights and whole gradients; AdamW's moments and low bits.
  int64_t dense_weights = 0, expert_weights = 0;
  int64_t gradients = 0, gathered = 0, whole_gradients = 0, moments = 0;
};

// For as many ranks as a launcher has started, else as the config names (dp_replicate · dp_shard,
// or ep · ep_replicate); nothing for one rank. Tokens are routed evenly. The first and the last
// rank are run dry and compared.
std::optional<DryRanks> dry_ranks(const PretrainConfig& config, const ConfigSource& source,
                                  const ModelChoice& choice, const nn::Decoder& decoder);

std::string ranks_page(const DryRanks& ranks);

// A rank's memory: what it holds of units, and what `one` says of the rest, a forecast for one rank
// with as many tokens at once.
plan::MemoryForecast memory_of(const DryRanks& ranks, const plan::MemoryForecast& one);
// Packed rows of a micro-batch of a rank.
int64_t rows_at_once(const PretrainConfig& config, int ranks);

// `model` is what to call it.
plan::RankPicture picture_of(const DryRanks& ranks, const std::string& model);

}  // namespace conclave::recipes
