#include "ops/receive_buffer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "ops/device.h"
#include "ops/receive_buffer_cuda.h"
#include "ops/segment_sum.h"

namespace conclave::ops {
namespace {

// The buffer's rows: each token's slots by rank, one row a rank that occurs.
ReceiveBuffer host_receive_buffer(const at::Tensor& ids, const at::Tensor& row_of_pair,
                                  int64_t local) {
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

// How many rows of the buffer are there, on the device.
at::Tensor rows_there(const ReceiveBuffer& b) { return b.token_begin.slice(0, -1); }

}  // namespace

ReceiveBuffer receive_buffer(const at::Tensor& ids, const at::Tensor& row_of_pair, int64_t local,
                             int64_t ranks) {
  TORCH_CHECK(ids.dim() == 2 && ids.size(1) > 0, "ids: expected [tokens, top_k], got ",
              ids.sizes());
  const int64_t tokens = ids.size(0), top_k = ids.size(1);
  CHECK_SHAPE(ids, tokens, top_k);
  CHECK_DTYPE(ids, at::kLong);
  if constexpr (kCudaBuild)
    if (ids.is_cuda()) return cuda::receive_buffer(ids, row_of_pair, local, ranks);
  return host_receive_buffer(ids, row_of_pair, local);
}

at::Tensor fill_buffer(const at::Tensor& x, const ReceiveBuffer& b) {
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::take_rows(x, b.token, rows_there(b));
  return at::index_select(x, 0, b.token);
}

at::Tensor spread_buffer(const at::Tensor& buffer, const ReceiveBuffer& b) {
  if constexpr (kCudaBuild)
    if (buffer.is_cuda()) return cuda::take_rows(buffer, b.row, {});
  return at::index_select(buffer, 0, b.row);
}

at::Tensor partial_sums(const at::Tensor& rows, const ReceiveBuffer& b) {
  if constexpr (kCudaBuild)
    if (rows.is_cuda()) return cuda::sum_segments(rows, b.pairs, b.pair_begin, rows_there(b));
  return segment_sum(rows, b.pairs, b.pair_begin);
}

at::Tensor token_sums(const at::Tensor& partial, const ReceiveBuffer& b) {
  if constexpr (kCudaBuild)
    if (partial.is_cuda()) return cuda::sum_segments(partial, {}, b.token_begin, {});
  return segment_sum(partial, {}, b.token_begin);
}

}  // namespace conclave::ops
