// Ranks and experts that are not there: what a rank's program would send, without data
// (comm/dry.h).
#pragma once
#include "comm/dispatch.h"
#include "comm/dry.h"
#include "comm/groups.h"

namespace conclave::comm {

// Groups that write to one ledger under their names. The ledger must outlive them.
class DryFactory final : public CommFactory {
 public:
  DryFactory(int rank, int world, Ledger& ledger) : rank_(rank), world_(world), ledger_(ledger) {}
  int rank() const override { return rank_; }
  int world() const override { return world_; }
  std::unique_ptr<Comm> make(const std::vector<int>& ranks, const std::string& name) override;

 private:
  const int rank_, world_;
  Ledger& ledger_;
};

// Makes the calls of an all_to_all dispatcher (comm/dispatch_ranks.h) on meta tensors; every rank
// of the group gets `rows` rows of this rank's tokens, and as many come from each. With `capacity`
// of one that fixes them before (comm/dispatch_capacity.h).
class DryDispatcher final : public Dispatcher {
 public:
  DryDispatcher(Comm& ep, int64_t rows, bool capacity = false)
      : ep_(ep), rows_(rows), capacity_(capacity) {}
  int ranks() const override { return ep_.size(); }
  Dispatch prepare(const at::Tensor& ids, int64_t experts) override;
  at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) override;
  at::Tensor combine(const Dispatch& to, const at::Tensor& rows) override;
  at::Tensor dispatch_weights(const Dispatch& to, const at::Tensor& weights) override;
  at::Tensor combine_weights(const Dispatch& to, const at::Tensor& dweights) override;

 private:
  // Rows like those of `like` there and as many back here, and `more` for each rank.
  void exchange(const at::Tensor& like, int64_t more = 0);
  Comm& ep_;
  const int64_t rows_;
  const bool capacity_;
};

}  // namespace conclave::comm
