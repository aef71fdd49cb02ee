#include "comm/groups.h"

#include <c10/util/Exception.h>

#include <numeric>

namespace conclave::comm {

Groups make_groups(const RankLayout& layout, CommFactory& factory) {
  TORCH_CHECK(factory.world() == layout.world(), "groups: expected ", layout.world(), " ranks for ",
              layout.text(), ", got ", factory.world());
  const int rank = factory.rank();
  const auto make = [&](const std::vector<int>& ranks, const std::string& name) {
    return ranks.size() == 1 ? single() : factory.make(ranks, name);
  };
  const Mesh dense = layout.dense(), experts = layout.experts();
  std::vector<int> all(static_cast<size_t>(layout.world()));
  std::iota(all.begin(), all.end(), 0);
  Groups g;  // in this order on all ranks
  g.world = make(all, "world");
  g.dp_shard = make(dense.group(rank, "dp_shard"), "dp_shard");
  g.dp_replicate = make(dense.group(rank, "dp_replicate"), "dp_replicate");
  g.ep = make(experts.group(rank, "ep"), "ep");
  g.ep_shard = make(experts.group(rank, "ep_shard"), "ep_shard");
  g.ep_replicate = make(experts.group(rank, "ep_replicate"), "ep_replicate");
  return g;
}

}  // namespace conclave::comm
