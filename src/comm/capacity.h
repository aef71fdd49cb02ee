// How many rows expert ranks exchange where the numbers are fixed before a step
// (comm/dispatch_capacity.h), and how these follow the loads. Pure arithmetic.
#pragma once
#include <cstdint>

namespace conclave::comm {

// Of one layer and micro-batch; the same numbers for all layers and all ranks.
struct Capacity {
  int64_t peer_rows = 0;    // from each rank to each
  int64_t expert_rows = 0;  // that the experts of a rank get in all
  bool holds(const Capacity& load) const {
    return load.peer_rows <= peer_rows && load.expert_rows <= expert_rows;
  }
  bool operator==(const Capacity&) const = default;
};
Capacity largest(const Capacity& a, const Capacity& b);  // of each number

// What loads depend on beside the routing.
struct LoadFacts {
  int64_t tokens = 0;  // of a rank in a micro-batch
  int64_t experts = 0, top_k = 0, ranks = 1;
};
// In the mean where experts are chosen uniformly: a row goes to a rank if one of top_k distinct
// experts is there.
Capacity even_load(const LoadFacts& facts);
// No routing needs more.
Capacity highest_load(const LoadFacts& facts);

// What a run keeps of it, and goes on with; numbers of another cut (ranks, tokens) say nothing.
struct CapacityState {
  int64_t ranks = 0, tokens = 0;  // 0: there is none
  Capacity now, seen;             // seen: the highest loads since the window began
  int64_t again = 0;              // steps that were run again for want of room
};

class CapacityRule {
 public:
  static constexpr int64_t kWindow = 128;  // steps after which the capacity may sink

  CapacityRule() = default;
  // margin ≥ 1: how many times the load there is room for.
  CapacityRule(const LoadFacts& facts, double margin) : facts_(facts), margin_(margin) {}

  // The capacity for that load: with the margin, rounded up to eight steps an octave so that it
  // changes seldom; at most what any routing needs, at least the load.
  Capacity above(const Capacity& load) const;
  // Leaves a state of the same cut as it is; else starts with even loads.
  void begin(CapacityState& state) const;
  // After step `step` (1, 2, …): rises at once, sinks to what the last window needed.
  void follow(CapacityState& state, const Capacity& load, int64_t step) const;
  // Where there was no room for it.
  void rise(CapacityState& state, const Capacity& load) const;

 private:
  LoadFacts facts_;
  double margin_ = 1;
};

}  // namespace conclave::comm
