// How a run's ranks share the work: two views of the same ranks. Dense weights see data parallelism
// (dp_replicate, dp_shard), experts see (ep_replicate, ep_shard, ep): expert parallelism folds over
// the data-parallel ranks. Pure arithmetic.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/config.h"
#include "base/error.h"
#include "comm/mesh.h"

namespace conclave::comm {

// The YAML section `parallel`; what is left out is filled in.
struct ParallelConfig {
  std::optional<int64_t> dp_replicate, dp_shard, ep, ep_replicate;
  std::string dispatcher = "all_to_all";
  std::string weights = "keep";
  bool overlap = true;
  int64_t at_once = 1;
  std::optional<double> capacity;
  void fields(auto& f) {
    f("dp_replicate", dp_replicate,
      "copies of the dense weights, each of which dp_shard ranks share; the ranks that dp_shard "
      "leaves, else 1, if not set",
      at_least(1));
    f("dp_shard", dp_shard,
      "ranks over which each copy of the dense weights, their gradients and moments are cut; the "
      "ranks that dp_replicate leaves if not set",
      at_least(1));
    f("ep", ep,
      "ranks over which the experts are dealt out, neighbours among all ranks; as many as a node "
      "has ranks and the experts can be divided by if not set",
      at_least(1));
    f("ep_replicate", ep_replicate,
      "copies of the experts; between them and ep, their weights, gradients and moments are cut "
      "over the ranks that are left; 1 if not set",
      at_least(1));
    f("dispatcher", dispatcher,
      "how tokens come to the ranks of their experts: all_to_all sends a token to those that need "
      "it, all_gather every token to all",
      one_of({"all_to_all", "all_gather"}));
    f("weights", weights,
      "of other ranks: keep what was gathered for the whole step, or release it after a layer's "
      "pass and gather it again in the backward",
      one_of({"keep", "release"}));
    f("overlap", overlap,
      "on GPUs weights, gradients and tokens travel beside the computation, on streams of their "
      "own");
    f("at_once", at_once,
      "micro-batches at a time: with 2 one computes while the other's tokens are on their way, and "
      "the activations of both are kept",
      within(1, 2));
    f("capacity", capacity,
      "of all_to_all: numbers of rows are fixed before a step, so that the host waits for no "
      "counts: room for the highest load seen times this, in the beginning for even loads; a step "
      "that "
      "needs more is run again with more. Counts are exchanged first if not set",
      at_least(1));
  }
};

struct RankLayout {
  int dp_replicate = 1, dp_shard = 1;
  int ep = 1, ep_replicate = 1;

  int world() const { return dp_replicate * dp_shard; }
  int ep_shard() const { return world() / (ep * ep_replicate); }
  Mesh dense() const;        // dp_replicate, dp_shard
  Mesh experts() const;      // ep_replicate, ep_shard, ep: the ranks of an ep group are neighbours
  std::string text() const;  // "dp_replicate 2 · dp_shard 4, ep_replicate 1 · ep_shard 2 · ep 4"
  bool operator==(const RankLayout&) const = default;
};

// What a layout must fit.
struct LayoutFacts {
  int world = 1;
  int ranks_per_node = 1;  // of each node
  int64_t experts = 0;     // of a layer; 0: a model without
};

// Turns a key of the section and a message into the error to be thrown.
using LayoutError = std::function<ConfigError(const std::string& key, const std::string& message)>;

// Throws `error` where the section does not fit, with the next value that would.
RankLayout make_layout(const ParallelConfig& config, const LayoutFacts& facts,
                       const LayoutError& error);

}  // namespace conclave::comm
