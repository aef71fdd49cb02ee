// Keeps the capacity of a dispatcher (comm/dispatch_capacity.h) above the loads while a run goes
// on: alike on all ranks, and from what the steps tell anyway.
#pragma once
#include "comm/capacity.h"
#include "comm/comm.h"
#include "comm/dispatch.h"
#include "train/step.h"

namespace conclave::train {

class CapacityKeeper {
 public:
  // All outlive it; `world` are the ranks that train together. Goes on with `state` where it fits
  // the rule. Does nothing for a dispatcher without capacity.
  CapacityKeeper(comm::Dispatcher& dispatcher, comm::Comm& world, const comm::CapacityRule& rule,
                 comm::CapacityState& state);

  bool is_needed() const { return fixed_ != nullptr; }
  const comm::Capacity& capacity() const { return state_.now; }

  // After step `step` (1, 2, …), whose rows all found room.
  void follow(const comm::Capacity& load, int64_t step);
  // After a step whose rows did not: raises the capacity; steps from now on count again.
  void make_room(const comm::Capacity& load);
  // Of what ran since the last step and is no step: whether all rows found room. Makes room where
  // not, and is then to be asked again after another try. Collective, waits for the device.
  bool had_room();

 private:
  comm::CapacityDispatcher* fixed_;
  comm::Comm& world_;
  const comm::CapacityRule& rule_;
  comm::CapacityState& state_;
};

}  // namespace conclave::train
