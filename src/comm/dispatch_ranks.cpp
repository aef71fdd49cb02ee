#include "comm/dispatch_ranks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <numeric>

#include "base/check.h"
#include "comm/dispatch_capacity.h"

namespace conclave::comm {

RanksDispatcher::Ids RanksDispatcher::read(const at::Tensor& ids, int64_t experts) const {
  TORCH_CHECK(ids.dim() == 2, "ids: expected [tokens, top_k], got ", ids.sizes());
  TORCH_CHECK(experts % comm_.size() == 0, "experts: expected a multiple of ", comm_.size(),
              " ranks, got ", experts);
  CHECK_DTYPE(ids, at::kLong);
  Ids out{ids.cpu().contiguous(), experts / comm_.size()};
  const int64_t* id = out.host.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i)
    TORCH_CHECK(id[i] >= 0 && id[i] < experts, "ids: expected experts 0 … ", experts - 1, ", got ",
                id[i], " at token ", i / ids.size(1));
  return out;
}

void arrange_arrived(Dispatch& to, const at::Tensor& arrived, int64_t local, at::Device device) {
  const int64_t rows = arrived.size(0), top_k = arrived.size(1), slots = rows * top_k;
  const int32_t* expert = arrived.const_data_ptr<int32_t>();
  const auto integers = [](int64_t n) { return at::empty({n}, at::kLong); };
  at::Tensor offsets = at::zeros({local + 1}, at::kLong), pair_begin = integers(rows + 1);
  int64_t* offset = offsets.data_ptr<int64_t>();
  for (int64_t i = 0; i < slots; ++i)
    if (expert[i] >= 0) ++offset[expert[i] + 1];
  std::partial_sum(offset, offset + local + 1, offset);
  to.received = offset[local];
  // A counting sort by expert, which leaves rows of one expert in the order of arrival.
  std::vector<int64_t> next(offset, offset + local);
  at::Tensor row = integers(to.received), pairs = integers(to.received),
             weight = integers(to.received);
  int64_t *begin = pair_begin.data_ptr<int64_t>(), *pair = pairs.data_ptr<int64_t>();
  for (int64_t r = 0, n = 0; r < rows; ++r) {
    begin[r] = n;
    for (int64_t i = r * top_k; i < (r + 1) * top_k; ++i) {
      if (expert[i] < 0) continue;
      const int64_t at = next[static_cast<size_t>(expert[i])]++;
      row.data_ptr<int64_t>()[at] = r;
      weight.data_ptr<int64_t>()[at] = i;
      pair[n++] = at;
    }
    begin[r + 1] = n;
  }
  if (rows == 0) begin[0] = 0;
  const auto there = [&](const at::Tensor& t) {
    return device.is_cuda() ? t.to(at::kInt).to(device) : t;
  };
  ops::ReceiveBuffer& in = to.exchange.in;
  in.row = there(row), in.pairs = there(pairs), in.pair_begin = there(pair_begin);
  in.token_begin = there(at::full({1}, rows, at::kLong));
  to.exchange.weight_in = weight.to(device);
  to.offsets = there(offsets);
}

std::unique_ptr<Dispatcher> make_dispatcher(const std::string& kind, Comm& ep) {
  if (ep.size() == 1) return std::make_unique<LocalDispatcher>();
  if (kind == "all_to_all") return std::make_unique<AllToAllDispatcher>(ep);
  if (kind == "all_to_all_capacity") return std::make_unique<CapacityDispatcher>(ep);
  TORCH_CHECK(kind == "all_gather",
              "dispatcher: expected all_to_all, all_to_all_capacity or all_gather, got ", kind);
  return std::make_unique<AllGatherDispatcher>(ep);
}

}  // namespace conclave::comm
