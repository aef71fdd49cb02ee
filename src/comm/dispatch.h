// Experts' rows to the ranks that hold the experts, and back. A layout is made once a micro-batch
// and layer, from the router's ids; recompute and backward use that same one and never route again.
// Tensors in, tensors out, no tape: backward of dispatch is combine of the rows' gradient, backward
// of combine is dispatch of the tokens' gradient; likewise for the weights.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "comm/lane.h"
#include "ops/dispatch.h"
#include "ops/fixed_exchange.h"
#include "ops/receive_buffer.h"

namespace conclave::comm {

// How rows move between expert ranks: this rank's go out, those of others come in; in each
// direction a row for a token and rank, which feeds all the token's experts there.
struct Exchange {
  std::vector<int64_t> sent, arrived;  // rows to and from each rank of the group
  // `row`, `pairs` and `pair_begin` as ops/receive_buffer.h has them: out: tokens to rows that go
  // out (row: whose each is), and what came back for each token, ranks ascending; in: rows that
  // came in to experts' rows.
  ops::ReceiveBuffer out, in;
  at::Tensor weight_out;  // [tokens · top_k] int64: place of each in [Σ sent, top_k]
  at::Tensor weight_in;   // [received] int64: place of each in [Σ arrived, top_k]
};

// The same where ranks exchange fixed numbers of rows (comm/dispatch_capacity.h).
struct FixedExchange {
  ops::SentLayout out;
  ops::ArrivedLayout in;
};

struct Dispatch {
  ops::ExpertLayout sent;  // this rank's tokens · top_k rows in the order of all experts
  // [local_experts + 1], int64 on the CPU, for rows on CUDA int32 beside them: local expert e gets
  // the received rows offsets[e] … offsets[e+1), in token order (of the group: rank 0's tokens
  // first).
  at::Tensor offsets;
  int64_t tokens = 0, top_k = 0;
  int64_t received = 0;       // rows that this rank's experts get
  ops::ReceiveBuffer buffer;  // where there is one (comm/dispatch_proxy.h)
  Exchange exchange;          // where there is one (comm/dispatch_ranks.h), and no `sent` then
  FixedExchange fixed;        // likewise
};

class CapacityDispatcher;

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
  virtual int ranks() const { return 1; }  // expert ranks
  // This one where it exchanges fixed numbers of rows, which its user has to keep high enough.
  virtual CapacityDispatcher* with_capacity() { return nullptr; }
  // ids [tokens, top_k] int64 in 0 … experts−1 (throws otherwise), none twice for a token.
  // Collective over the expert ranks, as all calls here; the only one that may wait for the device.
  virtual Dispatch prepare(const at::Tensor& ids, int64_t experts) = 0;

  // x [tokens, hidden] → [received, hidden].
  virtual at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) = 0;
  // rows [received, hidden] → [tokens, hidden]: a token's rows summed in slot order in fp32 or
  // wider.
  virtual at::Tensor combine(const Dispatch& to, const at::Tensor& rows) = 0;

  // weights [tokens, top_k], fp32 or wider → [received]: the routing weight of each row.
  virtual at::Tensor dispatch_weights(const Dispatch& to, const at::Tensor& weights) = 0;
  // dweights [received] → [tokens, top_k]: the transpose, for the backward.
  virtual at::Tensor combine_weights(const Dispatch& to, const at::Tensor& dweights) = 0;

  // Where who runs a layer has all but prepare done, beside what else is to be computed; closed at
  // first.
  Lane& lane() { return lane_; }

 private:
  Lane lane_;
};

// One expert rank: all experts are here, rows move within the device.
class LocalDispatcher : public Dispatcher {
 public:
  Dispatch prepare(const at::Tensor& ids, int64_t experts) override;
  at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) override;
  at::Tensor combine(const Dispatch& to, const at::Tensor& rows) override;
  at::Tensor dispatch_weights(const Dispatch& to, const at::Tensor& weights) override;
  at::Tensor combine_weights(const Dispatch& to, const at::Tensor& dweights) override;
};

}  // namespace conclave::comm
