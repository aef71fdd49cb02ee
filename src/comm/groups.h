// The communicators that one rank of a layout needs, and who makes them.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/comm.h"
#include "comm/rank_layout.h"

namespace conclave::comm {

// Makes communicators over some ranks of the world: thread ranks, Gloo, NCCL, dry.
class CommFactory {
 public:
  virtual ~CommFactory() = default;
  virtual int rank() const = 0;   // of this process or thread, in the world
  virtual int world() const = 0;  // ranks
  // The group of these ranks, ascending, this one among them; its rank r is ranks[r]. Collective
  // over the world: all ranks make groups of the same names in the same order, and the groups of
  // one call are disjoint. `name` stands in messages and ledgers, e.g. "dp_shard". The factory, or
  // what made it, may have to outlive the group.
  virtual std::unique_ptr<Comm> make(const std::vector<int>& ranks, const std::string& name) = 0;
};

// Groups of one rank are single(), for which no factory is asked.
struct Groups {
  std::unique_ptr<Comm> world;
  // Dense units: each is cut over the shard group; the cuts of one range are replicas.
  std::unique_ptr<Comm> dp_shard, dp_replicate;
  // Experts: tokens go over ep; each ep rank's experts are cut over ep_shard, replicated over
  // ep_replicate.
  std::unique_ptr<Comm> ep, ep_shard, ep_replicate;
};

// Collective over the world; `layout` is the same on all ranks and has the factory's world.
Groups make_groups(const RankLayout& layout, CommFactory& factory);

// Ranks as threads of this process, as run_threads (comm/comm.h) runs them, with groups of them.
// Also throws, on all ranks, where all wait for one another in different groups: who waits where.
void run_thread_ranks(int size, const std::function<void(CommFactory&)>& body);

}  // namespace conclave::comm
