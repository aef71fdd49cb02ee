#include "comm/dry_groups.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

namespace conclave::comm {

std::unique_ptr<Comm> DryFactory::make(const std::vector<int>& ranks, const std::string& name) {
  const auto place = std::lower_bound(ranks.begin(), ranks.end(), rank_) - ranks.begin();
  return dry(name, static_cast<int>(place), static_cast<int>(ranks.size()), ledger_);
}

void DryDispatcher::exchange(const at::Tensor& like, int64_t more) {
  if (ep_.size() == 1) return;
  auto shape = like.sizes().vec();
  shape[0] = (rows_ + more) * ep_.size();
  const std::vector<int64_t> rows(static_cast<size_t>(ep_.size()), rows_ + more);
  ep_.all_to_all(at::empty(shape, like.options()), at::empty(shape, like.options()), rows, rows);
}

Dispatch DryDispatcher::prepare(const at::Tensor& ids, int64_t experts) {
  Dispatch to;
  to.tokens = ids.size(0), to.top_k = ids.size(1);
  if (ep_.size() > 1) {
    const std::vector<int64_t> ones(static_cast<size_t>(ep_.size()), 1);
    const auto counts = [&] { return at::empty({ep_.size()}, ids.options()); };
    if (!capacity_) ep_.all_to_all(counts(), counts(), ones, ones);
    exchange(at::empty({to.tokens, to.top_k}, ids.options().dtype(at::kInt)), capacity_ ? 1 : 0);
  }
  to.received = to.tokens * to.top_k;
  to.offsets = at::empty({experts / ep_.size() + 1}, ids.options());
  return to;
}

at::Tensor DryDispatcher::dispatch(const Dispatch& to, const at::Tensor& x) {
  exchange(x);
  return at::empty({to.received, x.size(1)}, x.options());
}

at::Tensor DryDispatcher::combine(const Dispatch& to, const at::Tensor& rows) {
  exchange(rows);
  return at::empty({to.tokens, rows.size(1)}, rows.options());
}

at::Tensor DryDispatcher::dispatch_weights(const Dispatch& to, const at::Tensor& weights) {
  exchange(weights);
  return at::empty({to.received}, weights.options());
}

at::Tensor DryDispatcher::combine_weights(const Dispatch& to, const at::Tensor& dweights) {
  at::Tensor weights = at::empty({to.tokens, to.top_k}, dweights.options());
  exchange(weights);
  return weights;
}

}  // namespace conclave::comm
