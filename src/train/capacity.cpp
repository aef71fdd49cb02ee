#include "train/capacity.h"

#include <ATen/ops/empty.h>

#include "base/log.h"
#include "base/text.h"
#include "comm/dispatch_capacity.h"

namespace conclave::train {

CapacityKeeper::CapacityKeeper(comm::Dispatcher& dispatcher, comm::Comm& world,
                               const comm::CapacityRule& rule, comm::CapacityState& state)
    : fixed_(dispatcher.with_capacity()), world_(world), rule_(rule), state_(state) {
  if (!fixed_) {
    state = {};
    return;
  }
  rule_.begin(state_);
  fixed_->set_capacity(state_.now);
}

void CapacityKeeper::follow(const comm::Capacity& load, int64_t step) {
  if (!fixed_) return;
  rule_.follow(state_, load, step);
  fixed_->set_capacity(state_.now);
}

void CapacityKeeper::make_room(const comm::Capacity& load) {
  const comm::Capacity before = state_.now;
  rule_.rise(state_, load);
  ++state_.again;
  fixed_->set_capacity(state_.now);
  fixed_->clear();
  const auto ll = [](int64_t n) { return static_cast<long long>(n); };
  log_info(
      format("dispatch: %lld rows from a rank to another and %lld of its experts, there was room "
             "for %lld and %lld: run again with %lld and %lld (%lld times so far)",
             ll(load.peer_rows), ll(load.expert_rows), ll(before.peer_rows), ll(before.expert_rows),
             ll(state_.now.peer_rows), ll(state_.now.expert_rows), ll(state_.again)));
}

bool CapacityKeeper::had_room() {
  if (!fixed_) return true;
  const at::Tensor mine = fixed_->take_load().cpu(),
                   all = at::empty({world_.size(), 2}, mine.options());
  world_.all_gather(all, mine);
  comm::Capacity load;
  const int64_t* n = all.const_data_ptr<int64_t>();
  for (int r = 0; r < world_.size(); ++r) load = comm::largest(load, {n[2 * r], n[2 * r + 1]});
  if (state_.now.holds(load)) return true;
  make_room(load);
  return false;
}

}  // namespace conclave::train
