#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include <numeric>

#include "base/check.h"
#include "comm/dispatch_ranks.h"

namespace conclave::comm {
namespace {

int64_t sum(const std::vector<int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

at::Tensor rows_like(const at::Tensor& x, int64_t rows) {
  auto shape = x.sizes().vec();
  shape[0] = rows;
  return at::empty(shape, x.options());
}

// The senders' side: a row for each distinct (token, rank), ranks ascending, tokens ascending
// within one. Sets `sent`, `out`, `weight_out` and returns what tells the receivers: [Σ sent,
// top_k] int32, the expert of each slot as its rank counts them, −1 for the slots of other ranks.
at::Tensor arrange_sent(Exchange& e, const at::Tensor& ids, int64_t local, int ranks,
                        at::Device device) {
  const int64_t tokens = ids.size(0), top_k = ids.size(1);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  // Of each token the ranks that need it, ascending, once.
  std::vector<char> needs(static_cast<size_t>(tokens) * static_cast<size_t>(ranks));
  e.sent.assign(static_cast<size_t>(ranks), 0);
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    const auto rank = static_cast<size_t>(id[i] / local);
    char& need = needs[static_cast<size_t>(i / top_k) * static_cast<size_t>(ranks) + rank];
    if (!need) ++e.sent[rank];
    need = 1;
  }
  const int64_t rows = sum(e.sent);
  const auto integers = [](int64_t n) { return at::empty({n}, at::kLong); };
  at::Tensor token = integers(rows), pairs = integers(rows), begin = integers(tokens + 1),
             weight = integers(tokens * top_k);
  at::Tensor experts = at::full({rows, top_k}, -1, at::kInt);
  std::vector<int64_t> next(static_cast<size_t>(ranks), 0), row_at(static_cast<size_t>(ranks), 0);
  std::exclusive_scan(e.sent.begin(), e.sent.end(), next.begin(), int64_t{0});
  int64_t n = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    begin.data_ptr<int64_t>()[t] = n;
    for (size_t r = 0; r < static_cast<size_t>(ranks); ++r) {
      if (!needs[static_cast<size_t>(t) * static_cast<size_t>(ranks) + r]) continue;
      row_at[r] = next[r]++;
      token.data_ptr<int64_t>()[row_at[r]] = t;
      pairs.data_ptr<int64_t>()[n++] = row_at[r];
    }
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      const int64_t at = row_at[static_cast<size_t>(id[i] / local)] * top_k + i % top_k;
      experts.data_ptr<int32_t>()[at] = static_cast<int32_t>(id[i] % local);
      weight.data_ptr<int64_t>()[i] = at;
    }
  }
  begin.data_ptr<int64_t>()[tokens] = n;
  const auto there = [&](const at::Tensor& t) {
    return device.is_cuda() ? t.to(at::kInt).to(device) : t;
  };
  e.out.row = there(token), e.out.pairs = there(pairs), e.out.pair_begin = there(begin);
  e.out.token_begin = there(at::full({1}, tokens, at::kLong));
  e.weight_out = weight.to(device);
  return experts;
}

}  // namespace

at::Tensor AllToAllDispatcher::send(const Exchange& e, const at::Tensor& rows) {
  at::Tensor out = rows_like(rows, sum(e.arrived));
  comm_.all_to_all(out, rows, e.arrived, e.sent);
  return out;
}

at::Tensor AllToAllDispatcher::send_back(const Exchange& e, const at::Tensor& rows) {
  at::Tensor out = rows_like(rows, sum(e.sent));
  comm_.all_to_all(out, rows, e.sent, e.arrived);
  return out;
}

Dispatch AllToAllDispatcher::prepare(const at::Tensor& ids, int64_t experts) {
  const auto [host, local] = read(ids, experts);
  Dispatch to;
  to.tokens = ids.size(0), to.top_k = ids.size(1);
  Exchange& e = to.exchange;
  const at::Tensor sent = arrange_sent(e, host, local, comm_.size(), ids.device());
  const auto ranks = static_cast<int64_t>(comm_.size());
  at::Tensor counts = at::empty({ranks}, at::kLong), theirs = at::zeros({ranks}, ids.options());
  std::copy(e.sent.begin(), e.sent.end(), counts.data_ptr<int64_t>());
  const std::vector<int64_t> one_each(static_cast<size_t>(ranks), 1);
  comm_.all_to_all(theirs, counts.to(ids.device()), one_each, one_each);
  const at::Tensor arrived = theirs.cpu();
  e.arrived.assign(arrived.const_data_ptr<int64_t>(), arrived.const_data_ptr<int64_t>() + ranks);
  arrange_arrived(to, send(e, sent.to(ids.device())).cpu(), local, ids.device());
  return to;
}

at::Tensor AllToAllDispatcher::dispatch(const Dispatch& to, const at::Tensor& x) {
  const int64_t tokens = to.tokens, hidden = x.size(-1);
  CHECK_SHAPE(x, tokens, hidden);
  const at::Tensor arrived = send(to.exchange, ops::spread_buffer(x, to.exchange.out));
  return ops::spread_buffer(arrived, to.exchange.in);
}

at::Tensor AllToAllDispatcher::combine(const Dispatch& to, const at::Tensor& rows) {
  const int64_t received = to.received, hidden = rows.size(-1);
  CHECK_SHAPE(rows, received, hidden);
  const at::Tensor back = send_back(to.exchange, ops::partial_sums(rows, to.exchange.in));
  return ops::partial_sums(back, to.exchange.out);
}

at::Tensor AllToAllDispatcher::dispatch_weights(const Dispatch& to, const at::Tensor& weights) {
  const int64_t tokens = to.tokens, top_k = to.top_k;
  CHECK_SHAPE(weights, tokens, top_k);
  const at::Tensor arrived = send(to.exchange, at::index_select(weights, 0, to.exchange.out.row));
  return at::index_select(arrived.view({-1}), 0, to.exchange.weight_in);
}

at::Tensor AllToAllDispatcher::combine_weights(const Dispatch& to, const at::Tensor& dweights) {
  const int64_t received = to.received;
  CHECK_SHAPE(dweights, received);
  at::Tensor slots = at::zeros({sum(to.exchange.arrived), to.top_k}, dweights.options());
  slots.view({-1}).index_copy_(0, to.exchange.weight_in, dweights);
  const at::Tensor back = send_back(to.exchange, slots);
  return at::index_select(back.view({-1}), 0, to.exchange.weight_out).view({to.tokens, to.top_k});
}

}  // namespace conclave::comm
