#include "ops/receive_buffer_cuda.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/check.h"
#include "kernels/receive_buffer.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

const int32_t* ints(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<int32_t>() : nullptr;
}

}  // namespace

ReceiveBuffer receive_buffer(const at::Tensor& ids, const at::Tensor& row_of_pair, int64_t local,
                             int64_t ranks) {
  const int64_t tokens = ids.size(0), top_k = ids.size(1), routed = tokens * top_k,
                capacity = tokens * std::min(top_k, ranks);
  CHECK_SHAPE(row_of_pair, tokens, top_k);
  CHECK_DTYPE(row_of_pair, at::kInt);
  TORCH_CHECK(top_k <= 64 && routed < (int64_t{1} << 31),
              "receive_buffer: expected at most 64 slots a token and 2^31 pairs on CUDA, got ",
              top_k, " and ", routed);
  const OnDevice stream(ids, {{"row_of_pair", row_of_pair}});
  const auto integers = [&](int64_t n) { return at::empty({n}, row_of_pair.options()); };
  ReceiveBuffer b{integers(capacity), integers(routed), integers(routed), integers(capacity + 1),
                  integers(tokens + 1)};
  const at::Tensor sums = integers(kernels::receive_layout_blocks(tokens) + 1);
  kernels::ReceiveLayout p;
  p.ids = ids.const_data_ptr<int64_t>();
  p.row = row_of_pair.const_data_ptr<int32_t>();
  p.tokens = tokens, p.top_k = static_cast<int>(top_k), p.local = static_cast<int>(local);
  p.capacity = capacity;
  p.token = b.token.data_ptr<int32_t>();
  p.buffer_row = b.row.data_ptr<int32_t>();
  p.pairs = b.pairs.data_ptr<int32_t>();
  p.pair_begin = b.pair_begin.data_ptr<int32_t>();
  p.token_begin = b.token_begin.data_ptr<int32_t>();
  p.sums = sums.data_ptr<int32_t>();
  kernels::receive_layout(p, stream);
  return b;
}

at::Tensor take_rows(const at::Tensor& x, const at::Tensor& index, const at::Tensor& count) {
  const int64_t n = index.size(0), hidden = x.size(1);
  at::Tensor out = at::empty({n, hidden}, x.options());
  const OnDevice stream(x, {{"index", index}, {"count", count}});
  kernels::take_rows(out.data_ptr(), x.const_data_ptr(), ints(index), n, ints(count),
                     hidden * static_cast<int64_t>(x.element_size()), stream);
  return out;
}

at::Tensor sum_segments(const at::Tensor& rows, const at::Tensor& index, const at::Tensor& begin,
                        const at::Tensor& count) {
  const int64_t segments = begin.size(0) - 1, hidden = rows.size(1);
  at::Tensor sum = at::empty({segments, hidden}, rows.options());
  const OnDevice stream(rows, {{"index", index}, {"begin", begin}, {"count", count}});
  const auto run = [&](auto element) {
    using S = decltype(element);
    kernels::sum_segments<kernel_t<S>>(out<S>(sum), in<S>(rows), ints(index), ints(begin), segments,
                                       ints(count), hidden, stream);
  };
  if (rows.scalar_type() == at::kBFloat16) {
    run(c10::BFloat16());
  } else {
    CHECK_DTYPE(rows, at::kFloat);
    run(float());
  }
  return sum;
}

}  // namespace conclave::ops::cuda
