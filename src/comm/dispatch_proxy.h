// One rank's share of an expert-parallel layer, on one device and without the other ranks: what
// `conclave benchmark` runs. The work of the group is folded onto this rank, which is exact as long
// as all ranks have the same load: the router chooses among all experts, and pair (token, expert e)
// is computed by local expert e mod (experts / ranks).
#pragma once
#include "comm/dispatch.h"

namespace conclave::comm {

// What each dispatch and each combine takes longer, in the place of a transfer: microseconds.
struct ProxyDelay {
  int64_t dispatch = 0, combine = 0;
};

class ProxyDispatcher final : public LocalDispatcher {
 public:
  // `ranks` share the experts equally; this one has experts / ranks of them.
  explicit ProxyDispatcher(int64_t ranks, ProxyDelay delay = {}) : ranks_(ranks), delay_(delay) {}

  // Also makes the receive buffer's layout: a row for each distinct (token, e div (experts /
  // ranks)), tokens ascending, ranks ascending within one.
  Dispatch prepare(const at::Tensor& ids, int64_t experts) override;
  // The token's row comes into the buffer once for each rank it is sent to (a local copy that
  // stands for the transfer), and from there to each of its experts.
  at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) override;
  // The reverse: one partial sum a row of the buffer, rounded to the rows' type, then added up at
  // the token.
  at::Tensor combine(const Dispatch& to, const at::Tensor& rows) override;

  int64_t delayed() const { return delayed_; }  // microseconds so far, all delays together
  // Rows of the receive buffer for each token, in the mean over all layouts so far; waits for the
  // device.
  double rows_per_token() const {
    return tokens_ ? static_cast<double>(rows_.item<int64_t>()) / static_cast<double>(tokens_) : 0;
  }

 private:
  void wait_for(at::Device device, int64_t microseconds);

  int64_t ranks_;
  ProxyDelay delay_;
  int64_t delayed_ = 0;
  int64_t tokens_ = 0;
  at::Tensor rows_;  // [] int64, where the ids are: counted without waiting
};

}  // namespace conclave::comm
