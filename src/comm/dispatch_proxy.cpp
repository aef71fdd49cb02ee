#include "comm/dispatch_proxy.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/zeros.h>

#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/parts.h"
#include "ops/delay.h"

namespace conclave::comm {
namespace {

// Pairs in the order of local experts, by a counting sort that keeps their order within one.
ops::ExpertLayout local_layout(const at::Tensor& ids, int64_t experts, int64_t local) {
  const int64_t routed = ids.numel();
  ops::ExpertLayout out{at::zeros({local + 1}, ids.options()), at::empty({routed}, ids.options()),
                        at::empty_like(ids)};
  const int64_t* id = ids.const_data_ptr<int64_t>();
  int64_t* offsets = out.offsets.data_ptr<int64_t>();
  for (int64_t i = 0; i < routed; ++i) {
    TORCH_CHECK(id[i] >= 0 && id[i] < experts, "ids: expected experts 0 … ", experts - 1, ", got ",
                id[i], " at token ", i / ids.size(1));
    ++offsets[id[i] % local + 1];
  }
  std::partial_sum(offsets, offsets + local + 1, offsets);
  std::vector<int64_t> next(offsets, offsets + local);
  int64_t *pair = out.pair.data_ptr<int64_t>(), *row = out.row.data_ptr<int64_t>();
  for (int64_t i = 0; i < routed; ++i) {
    row[i] = next[static_cast<size_t>(id[i] % local)]++;
    pair[row[i]] = i;
  }
  return out;
}

}  // namespace

Dispatch ProxyDispatcher::prepare(const at::Tensor& ids, int64_t experts) {
  TORCH_CHECK(ids.dim() == 2 && ids.size(1) > 0, "ids: expected [tokens, top_k], got ",
              ids.sizes());
  TORCH_CHECK(experts % ranks_ == 0, "experts: expected a multiple of ", ranks_, " ranks, got ",
              experts);
  CHECK_DTYPE(ids, at::kLong);
  const int64_t tokens = ids.size(0), top_k = ids.size(1);
  CHECK_SHAPE(ids, tokens, top_k);
  Dispatch to;
  const int64_t local = experts / ranks_;
  to.sent = ids.is_cuda() ? ops::expert_layout(at::remainder(ids, local), local)
                          : local_layout(ids, experts, local);
  to.offsets = to.sent.offsets;
  to.buffer = ops::receive_buffer(ids, to.sent.row, local, ranks_);
  to.tokens = tokens;
  to.top_k = top_k;
  to.received = tokens * top_k;
  tokens_ += tokens;
  const at::Tensor rows = to.buffer.token_begin[tokens].to(at::kLong);
  rows_ = rows_.defined() ? at::add(rows_, rows) : rows;
  return to;
}

void ProxyDispatcher::wait_for(at::Device device, int64_t microseconds) {
  ops::transfer_delay(device, microseconds);
  delayed_ += microseconds;
}

at::Tensor ProxyDispatcher::dispatch(const Dispatch& to, const at::Tensor& x) {
  const int64_t tokens = to.tokens, hidden = x.size(-1);
  CHECK_SHAPE(x, tokens, hidden);
  at::Tensor buffer;
  {
    Part part("dispatch, stand-in");
    wait_for(x.device(), delay_.dispatch);
    buffer = ops::fill_buffer(x, to.buffer);
  }
  return ops::spread_buffer(buffer, to.buffer);
}

at::Tensor ProxyDispatcher::combine(const Dispatch& to, const at::Tensor& rows) {
  const int64_t received = to.received, hidden = rows.size(-1);
  CHECK_SHAPE(rows, received, hidden);
  const at::Tensor partial = ops::partial_sums(rows, to.buffer);
  Part part("combine, stand-in");
  wait_for(rows.device(), delay_.combine);
  return ops::token_sums(partial, to.buffer);
}

}  // namespace conclave::comm
