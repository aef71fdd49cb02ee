// Training on thread ranks against training on one rank: the same losses, gradients and weights.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "comm/capacity.h"
#include "comm/groups.h"
#include "parallel/reduce.h"
#include "ranks/families.h"

namespace conclave::ranks {

struct Policy {
  bool recompute = false;  // every class that can be
  bool one_row_at_once = false;
  bool together = false;  // two micro-batches at a time, where there are two
  bool release = false;   // weights after use
  parallel::Reduction reduction = parallel::Reduction::reduce_scatter;
  std::string text() const;
};

struct RunSpec {
  const Family* family;
  comm::RankLayout layout;
  std::string dispatcher = "all_to_all";
  Policy policy;
  nn::Gate gate = nn::Gate::router;
  bool short_half = false;                      // rows_of
  std::optional<comm::Capacity> capacity = {};  // of all_to_all_capacity; else for any routing
  comm::Capacity highest_load() const;
  std::string text() const;
};

using Named = std::map<std::string, at::Tensor>;  // whole tensors of the checkpoint, flat

// What one rank comes to in three steps with clipping.
struct Reference {
  std::vector<double> losses, mtp_losses, auxs, norms, max_loads;
  std::vector<Named> gradients;   // after each step
  Named weights;                  // at the end
  std::vector<at::Tensor> loads;  // of one more forward and backward, by layer
};
const Reference& reference(const Family& family, bool short_half = false);

// What differs from one rank, one line each; empty: nothing. Losses within 1e-12, every gradient
// and weight within 1e-10 (of the tensor's largest, where that is below 1), loads exactly; every
// element is held by as many ranks as the layout says.
std::vector<std::string> differences(const RunSpec& run);

// All layouts of so many ranks.
std::vector<comm::RankLayout> layouts(int world, int64_t experts = 24);

}  // namespace conclave::ranks
