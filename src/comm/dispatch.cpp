#include "comm/dispatch.h"

#include "base/check.h"

namespace conclave::comm {

Dispatch LocalDispatcher::prepare(const at::Tensor& ids, int64_t experts) {
  TORCH_CHECK(ids.dim() == 2, "ids: expected [tokens, top_k], got ", ids.sizes());
  Dispatch to;
  to.sent = ops::expert_layout(ids, experts);
  to.offsets = to.sent.offsets;
  to.tokens = ids.size(0);
  to.top_k = ids.size(1);
  to.received = to.tokens * to.top_k;
  return to;
}

at::Tensor LocalDispatcher::dispatch(const Dispatch& to, const at::Tensor& x) {
  const int64_t tokens = to.tokens, hidden = x.size(-1);
  CHECK_SHAPE(x, tokens, hidden);
  return ops::gather_rows(x, to.sent);
}

at::Tensor LocalDispatcher::combine(const Dispatch& to, const at::Tensor& rows) {
  const int64_t received = to.received, hidden = rows.size(-1);
  CHECK_SHAPE(rows, received, hidden);
  return ops::gather_sum(rows, to.sent);
}

at::Tensor LocalDispatcher::dispatch_weights(const Dispatch& to, const at::Tensor& weights) {
  const int64_t tokens = to.tokens, top_k = to.top_k;
  CHECK_SHAPE(weights, tokens, top_k);
  return ops::gather_weights(weights, to.sent);
}

at::Tensor LocalDispatcher::combine_weights(const Dispatch& to, const at::Tensor& dweights) {
  const int64_t received = to.received;
  CHECK_SHAPE(dweights, received);
  return ops::gather_weights_backward(dweights, to.sent);
}

}  // namespace conclave::comm
