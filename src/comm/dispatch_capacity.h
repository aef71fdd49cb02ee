// The all_to_all dispatch without a wait for the device: ranks exchange fixed numbers of rows
// (comm/capacity.h), and who is where is found where the ids are (ops/fixed_exchange.h). What moves
// and is added up is what AllToAllDispatcher's moves and adds, to the bit, as long as all rows find
// room; those that do not are left out, and counted: a step with such is to be void.
#pragma once
#include "comm/capacity.h"
#include "comm/dispatch_ranks.h"

namespace conclave::comm {

// Bytes a rank, one way: ranks · peer_rows rows, whatever the routing is. On CUDA `received` of a
// Dispatch is expert_rows: of the experts' rows the first `offsets` are there, the rest come in as
// zeros and are never read.
class CapacityDispatcher final : public RanksDispatcher {
 public:
  using RanksDispatcher::RanksDispatcher;
  CapacityDispatcher* with_capacity() override { return this; }

  // Of the layouts made from now on; the same on all ranks.
  void set_capacity(const Capacity& capacity);
  const Capacity& capacity() const { return capacity_; }
  // The highest loads of the layouts since the last call, as this rank knows them: [2] int64 where
  // the ids were, on the CPU before the first. Does not wait.
  at::Tensor take_load();
  // `load` [2] fp64: the highest on any rank. Returns whether rows were left out, now or ever since
  // clear(): [1] fp64, more than 0. What follows on weights or data that were to come of a void
  // step is void too. Does not wait.
  at::Tensor left_out(const at::Tensor& load);
  void clear();

  Dispatch prepare(const at::Tensor& ids, int64_t experts) override;
  at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) override;
  at::Tensor combine(const Dispatch& to, const at::Tensor& rows) override;
  at::Tensor dispatch_weights(const Dispatch& to, const at::Tensor& weights) override;
  at::Tensor combine_weights(const Dispatch& to, const at::Tensor& dweights) override;

 private:
  at::Tensor exchange(const at::Tensor& rows);  // as many from each rank to each
  Capacity capacity_;
  at::Tensor load_;      // [2] int64
  at::Tensor left_out_;  // [1] fp64
};

}  // namespace conclave::comm
