// Dispatch over several expert ranks: rank r of the group holds experts r · local … (r + 1) · local
// − 1. A token's row goes once to each rank that needs it; there the experts' outputs for it are
// added up, in slot order and rounded once, before the sum comes back, and the sums of the ranks
// are added in rank order. Ranks may have different numbers of tokens, none too. The communicator
// must outlive the dispatcher.
#pragma once
#include <memory>
#include <string>

#include "comm/comm.h"
#include "comm/dispatch.h"

namespace conclave::comm {

class RanksDispatcher : public Dispatcher {
 public:
  explicit RanksDispatcher(Comm& comm) : comm_(comm) {}
  int ranks() const override { return comm_.size(); }

 protected:
  // What both kinds know of their layout before anything is sent; checks ids. Waits for the device.
  struct Ids {
    at::Tensor host;  // [tokens, top_k] int64 on the CPU
    int64_t local;    // experts a rank
  };
  Ids read(const at::Tensor& ids, int64_t experts) const;
  Comm& comm_;
};

// Only the rows that are needed go to a rank, and only sums come back. The counts are exchanged
// first, so prepare waits for the device. Bytes a rank, one way: hidden of each of the rows sent,
// about tokens · (ranks − 1) · (1 − (1 − 1 / ranks)^top_k) of them.
class AllToAllDispatcher final : public RanksDispatcher {
 public:
  using RanksDispatcher::RanksDispatcher;
  Dispatch prepare(const at::Tensor& ids, int64_t experts) override;
  at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) override;
  at::Tensor combine(const Dispatch& to, const at::Tensor& rows) override;
  at::Tensor dispatch_weights(const Dispatch& to, const at::Tensor& weights) override;
  at::Tensor combine_weights(const Dispatch& to, const at::Tensor& dweights) override;

 private:
  at::Tensor send(const Exchange& e, const at::Tensor& rows);  // [Σ sent, …] → [Σ arrived, …]
  at::Tensor send_back(const Exchange& e, const at::Tensor& rows);  // the reverse
};

// Every token goes to every rank of the group, and all ranks' sums are reduced to the token's, in
// fp32 or wider. For few ranks, or where top_k is so large that nearly all are needed.
class AllGatherDispatcher final : public RanksDispatcher {
 public:
  using RanksDispatcher::RanksDispatcher;
  Dispatch prepare(const at::Tensor& ids, int64_t experts) override;
  at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) override;
  at::Tensor combine(const Dispatch& to, const at::Tensor& rows) override;
  at::Tensor dispatch_weights(const Dispatch& to, const at::Tensor& weights) override;
  at::Tensor combine_weights(const Dispatch& to, const at::Tensor& dweights) override;

 private:
  at::Tensor gather(const Dispatch& to, const at::Tensor& x);  // [tokens, …] → [Σ arrived, …]
  at::Tensor reduce(const Dispatch& to, const at::Tensor& rows);  // the transpose
};

// `kind`: all_to_all, all_to_all_capacity (comm/dispatch_capacity.h) or all_gather; local over a
// group of one.
std::unique_ptr<Dispatcher> make_dispatcher(const std::string& kind, Comm& ep);

// The experts' side of a layout, from the rows that come in: arrived [rows, top_k] int32 on the
// CPU, a local expert or −1 for each slot. Sets `in`, `weight_in`, `offsets` and `received`, on
// `device`.
void arrange_arrived(Dispatch& to, const at::Tensor& arrived, int64_t local, at::Device device);

}  // namespace conclave::comm
