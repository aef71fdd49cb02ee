#include "comm/dispatch_capacity.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "base/check.h"

namespace conclave::comm {

void CapacityDispatcher::set_capacity(const Capacity& capacity) {
  TORCH_CHECK(capacity.peer_rows > 0 && capacity.expert_rows > 0,
              "capacity: expected at least 1 row, got ", capacity.peer_rows, " for a rank and ",
              capacity.expert_rows, " for its experts");
  capacity_ = capacity;
}

at::Tensor CapacityDispatcher::take_load() {
  at::Tensor load = std::exchange(load_, {});
  return load.defined() ? load : at::zeros({2}, at::kLong);
}

at::Tensor CapacityDispatcher::left_out(const at::Tensor& load) {
  const at::Tensor more = load.narrow(0, 0, 1)
                              .gt(capacity_.peer_rows)
                              .logical_or_(load.narrow(0, 1, 1).gt(capacity_.expert_rows))
                              .to(at::kDouble);
  left_out_ = left_out_.defined() ? left_out_.add(more) : more;
  return left_out_;
}

void CapacityDispatcher::clear() { left_out_.reset(); }

at::Tensor CapacityDispatcher::exchange(const at::Tensor& rows) {
  at::Tensor out = at::empty_like(rows);
  const std::vector<int64_t> each(static_cast<size_t>(comm_.size()), rows.size(0) / comm_.size());
  comm_.all_to_all(out, rows, each, each);
  return out;
}

Dispatch CapacityDispatcher::prepare(const at::Tensor& ids, int64_t experts) {
  TORCH_CHECK(capacity_.peer_rows > 0, "a dispatch with capacity: expected set_capacity before");
  const int64_t ranks = comm_.size();
  if (!load_.defined()) load_ = at::zeros({2}, ids.options().dtype(at::kLong));
  Dispatch to;
  to.fixed.out = ops::sent_layout(ids, experts, ranks, capacity_.peer_rows, load_);
  to.tokens = ids.size(0), to.top_k = ids.size(1);
  const at::Tensor arrived = exchange(std::exchange(to.fixed.out.message, {}));
  to.fixed.in = ops::arrived_layout(arrived, experts / ranks, ranks, capacity_.expert_rows, load_);
  to.offsets = to.fixed.in.offsets;
  to.received = to.fixed.in.row.size(0);
  return to;
}

at::Tensor CapacityDispatcher::dispatch(const Dispatch& to, const at::Tensor& x) {
  const int64_t tokens = to.tokens, hidden = x.size(-1);
  CHECK_SHAPE(x, tokens, hidden);
  return ops::take_rows(exchange(ops::take_rows(x, to.fixed.out.token)), to.fixed.in.row);
}

at::Tensor CapacityDispatcher::combine(const Dispatch& to, const at::Tensor& rows) {
  const int64_t received = to.received, hidden = rows.size(-1);
  CHECK_SHAPE(rows, received, hidden);
  return ops::sum_rows(exchange(ops::sum_rows(rows, to.fixed.in.expert_row)), to.fixed.out.rows);
}

at::Tensor CapacityDispatcher::dispatch_weights(const Dispatch& to, const at::Tensor& weights) {
  const int64_t tokens = to.tokens, top_k = to.top_k;
  CHECK_SHAPE(weights, tokens, top_k);
  return ops::take_elements(exchange(ops::take_rows(weights, to.fixed.out.token)),
                            to.fixed.in.slot);
}

at::Tensor CapacityDispatcher::combine_weights(const Dispatch& to, const at::Tensor& dweights) {
  const int64_t received = to.received;
  CHECK_SHAPE(dweights, received);
  return ops::take_elements(exchange(ops::take_elements(dweights, to.fixed.in.expert_row)),
                            to.fixed.out.slot);
}

}  // namespace conclave::comm
