#include "comm/dispatch_proxy.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "base/parts.h"
#include "ops/segment_sum.h"

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

// The buffer's rows: each token's slots by rank, one row a rank that occurs.
ReceiveBuffer receive_buffer(const at::Tensor& ids, const at::Tensor& row_of_pair, int64_t local) {
  const int64_t tokens = ids.size(0), top_k = ids.size(1);
  const int64_t *id = ids.const_data_ptr<int64_t>(), *row = row_of_pair.const_data_ptr<int64_t>();
  std::vector<int64_t> token, pairs, pair_begin{0}, token_begin{0};
  ReceiveBuffer b;
  b.row = at::empty({tokens * top_k}, ids.options());
  int64_t* buffer_row = b.row.data_ptr<int64_t>();
  std::vector<int64_t> slots(static_cast<size_t>(top_k));
  for (int64_t t = 0; t < tokens; ++t) {
    const auto rank = [&](int64_t j) { return id[t * top_k + j] / local; };
    std::iota(slots.begin(), slots.end(), 0);
    std::stable_sort(slots.begin(), slots.end(),
                     [&](int64_t a, int64_t b) { return rank(a) < rank(b); });
    for (size_t i = 0; i < slots.size(); ++i) {
      if (i == 0 || rank(slots[i]) != rank(slots[i - 1])) {
        if (i > 0) pair_begin.push_back(static_cast<int64_t>(pairs.size()));
        token.push_back(t);
      }
      pairs.push_back(row[t * top_k + slots[i]]);
      buffer_row[pairs.back()] = static_cast<int64_t>(token.size()) - 1;
    }
    pair_begin.push_back(static_cast<int64_t>(pairs.size()));
    token_begin.push_back(static_cast<int64_t>(token.size()));
  }
  const auto tensor = [&](const std::vector<int64_t>& v) {
    at::Tensor t = at::empty({static_cast<int64_t>(v.size())}, ids.options());
    std::copy(v.begin(), v.end(), t.data_ptr<int64_t>());
    return t;
  };
  b.token = tensor(token), b.pairs = tensor(pairs);
  b.pair_begin = tensor(pair_begin), b.token_begin = tensor(token_begin);
  return b;
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
  to.sent = local_layout(ids, experts, experts / ranks_);
  to.offsets = to.sent.offsets;
  to.buffer = receive_buffer(ids, to.sent.row, experts / ranks_);
  to.tokens = tokens;
  to.top_k = top_k;
  to.received = tokens * top_k;
  tokens_ += tokens;
  rows_ += to.buffer.token.numel();
  return to;
}

at::Tensor ProxyDispatcher::dispatch(const Dispatch& to, const at::Tensor& x) {
  const int64_t tokens = to.tokens, hidden = x.size(-1);
  CHECK_SHAPE(x, tokens, hidden);
  at::Tensor buffer;
  {
    Part part("dispatch, stand-in");
    buffer = at::index_select(x, 0, to.buffer.token);
  }
  return at::index_select(buffer, 0, to.buffer.row);
}

at::Tensor ProxyDispatcher::combine(const Dispatch& to, const at::Tensor& rows) {
  const int64_t received = to.received, hidden = rows.size(-1);
  CHECK_SHAPE(rows, received, hidden);
  const at::Tensor partial = ops::segment_sum(rows, to.buffer.pairs, to.buffer.pair_begin);
  Part part("combine, stand-in");
  return ops::segment_sum(partial, {}, to.buffer.token_begin);
}

at::Tensor ProxyDispatcher::dispatch_weights(const Dispatch& to, const at::Tensor& weights) {
  const int64_t tokens = to.tokens, top_k = to.top_k;
  CHECK_SHAPE(weights, tokens, top_k);
  return ops::gather_weights(weights, to.sent);
}

at::Tensor ProxyDispatcher::combine_weights(const Dispatch& to, const at::Tensor& dweights) {
  const int64_t received = to.received;
  CHECK_SHAPE(dweights, received);
  return ops::gather_weights_backward(dweights, to.sent);
}

}  // namespace conclave::comm
