#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "base/check.h"
#include "comm/dispatch_ranks.h"

namespace conclave::comm {
namespace {

// With zeros below, up to `rows`.
at::Tensor padded(const at::Tensor& x, int64_t rows) {
  if (x.size(0) == rows) return x.contiguous();
  auto shape = x.sizes().vec();
  shape[0] = rows;
  at::Tensor out = at::zeros(shape, x.options());
  out.narrow(0, 0, x.size(0)).copy_(x);
  return out;
}

}  // namespace

Dispatch AllGatherDispatcher::prepare(const at::Tensor& ids, int64_t experts) {
  const auto [host, local] = read(ids, experts);
  Dispatch to;
  to.tokens = ids.size(0), to.top_k = ids.size(1);
  const int64_t ranks = comm_.size();
  at::Tensor counts = at::empty({ranks}, ids.options());
  comm_.all_gather(counts, at::full({1}, to.tokens, ids.options()));
  counts = counts.cpu();
  const int64_t* count = counts.const_data_ptr<int64_t>();
  // Every rank sends as many rows as the one with most tokens.
  const int64_t rows = *std::max_element(count, count + ranks);
  to.exchange.sent.assign(static_cast<size_t>(ranks), rows);
  to.exchange.arrived = to.exchange.sent;
  at::Tensor all = gather(to, ids.add(1)).cpu();  // 0: no token
  at::Tensor arrived = at::empty({ranks * rows, to.top_k}, at::kInt);
  const int64_t *id = all.const_data_ptr<int64_t>(), first = comm_.rank() * local;
  for (int64_t i = 0; i < all.numel(); ++i) {
    const int64_t here = id[i] - 1 - first;
    arrived.data_ptr<int32_t>()[i] =
        id[i] > 0 && here >= 0 && here < local ? static_cast<int32_t>(here) : -1;
  }
  arrange_arrived(to, arrived, local, ids.device());
  return to;
}

at::Tensor AllGatherDispatcher::gather(const Dispatch& to, const at::Tensor& x) {
  const int64_t rows = to.exchange.sent.front();
  auto shape = x.sizes().vec();
  shape[0] = rows * comm_.size();
  at::Tensor all = at::empty(shape, x.options());
  comm_.all_gather(all, padded(x, rows));
  return all;
}

at::Tensor AllGatherDispatcher::reduce(const Dispatch& to, const at::Tensor& rows) {
  const at::Tensor wide = rows.scalar_type() == at::kBFloat16 ? rows.to(at::kFloat) : rows;
  auto shape = rows.sizes().vec();
  shape[0] = to.exchange.sent.front();
  at::Tensor mine = at::empty(shape, wide.options());
  comm_.reduce_scatter(mine, wide);
  return mine.narrow(0, 0, to.tokens).to(rows.scalar_type());
}

at::Tensor AllGatherDispatcher::dispatch(const Dispatch& to, const at::Tensor& x) {
  const int64_t tokens = to.tokens, hidden = x.size(-1);
  CHECK_SHAPE(x, tokens, hidden);
  return ops::spread_buffer(gather(to, x), to.exchange.in);
}

at::Tensor AllGatherDispatcher::combine(const Dispatch& to, const at::Tensor& rows) {
  const int64_t received = to.received, hidden = rows.size(-1);
  CHECK_SHAPE(rows, received, hidden);
  return reduce(to, ops::partial_sums(rows, to.exchange.in));
}

at::Tensor AllGatherDispatcher::dispatch_weights(const Dispatch& to, const at::Tensor& weights) {
  const int64_t tokens = to.tokens, top_k = to.top_k;
  CHECK_SHAPE(weights, tokens, top_k);
  return at::index_select(gather(to, weights).view({-1}), 0, to.exchange.weight_in);
}

at::Tensor AllGatherDispatcher::combine_weights(const Dispatch& to, const at::Tensor& dweights) {
  const int64_t received = to.received;
  CHECK_SHAPE(dweights, received);
  const int64_t rows = to.exchange.sent.front() * comm_.size();
  at::Tensor slots = at::zeros({rows, to.top_k}, dweights.options());
  slots.view({-1}).index_copy_(0, to.exchange.weight_in, dweights);
  return reduce(to, slots);
}

}  // namespace conclave::comm
