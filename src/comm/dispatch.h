// Experts' rows to the ranks that hold the experts, and back. A layout is made once a micro-batch
// and layer, from the router's ids; recompute and backward use that same one and never route again.
// Tensors in, tensors out, no tape: backward of dispatch is combine of the rows' gradient, backward
// of combine is dispatch of the tokens' gradient; likewise for the weights.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/dispatch.h"

namespace conclave::comm {

// Rows as they come from other ranks, one for each rank that a token is sent to, before they are
// spread over experts. int64.
struct ReceiveBuffer {
  at::Tensor token;        // [rows]: whose each is, ascending
  at::Tensor row;          // [received]: from which row of the buffer each expert's row is taken
  at::Tensor pairs;        // [received]: experts' rows in the order of the buffer's
  at::Tensor pair_begin;   // [rows + 1]: row i of the buffer feeds pairs pair_begin[i] …
  at::Tensor token_begin;  // [tokens + 1]: token t has rows token_begin[t] …
};

struct Dispatch {
  ops::ExpertLayout sent;  // this rank's tokens · top_k rows in the order of all experts
  // [local_experts + 1], int64 on the CPU, for rows on CUDA int32 beside them: local expert e gets
  // the received rows offsets[e] … offsets[e+1), in token order (of the group: rank 0's tokens
  // first).
  at::Tensor offsets;
  int64_t tokens = 0, top_k = 0;
  int64_t received = 0;  // rows that this rank's experts get
  ReceiveBuffer buffer;  // where there is one (comm/dispatch_proxy.h)
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
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
};

// One expert rank: all experts are here, rows move within the device.
class LocalDispatcher final : public Dispatcher {
 public:
  Dispatch prepare(const at::Tensor& ids, int64_t experts) override;
  at::Tensor dispatch(const Dispatch& to, const at::Tensor& x) override;
  at::Tensor combine(const Dispatch& to, const at::Tensor& rows) override;
  at::Tensor dispatch_weights(const Dispatch& to, const at::Tensor& weights) override;
  at::Tensor combine_weights(const Dispatch& to, const at::Tensor& dweights) override;
};

}  // namespace conclave::comm
