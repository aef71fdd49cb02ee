#include "ops/segment_sum.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/simd.h"

namespace conclave::ops {

at::Tensor segment_sum(const at::Tensor& rows, const at::Tensor& index, const at::Tensor& offsets) {
  TORCH_CHECK(rows.dim() == 2, "rows: expected [n, hidden], got ", rows.sizes());
  const int64_t n = rows.size(0), hidden = rows.size(1), segments = offsets.numel() - 1;
  CHECK_SHAPE(rows, n, hidden);
  CHECK_DTYPE(offsets, at::kLong);
  TORCH_CHECK(segments >= 0, "offsets: expected [segments + 1], got ", offsets.sizes());
  const int64_t* from = index.defined() ? index.const_data_ptr<int64_t>() : nullptr;
  const int64_t* begin = offsets.const_data_ptr<int64_t>();
  const int64_t m = from ? index.numel() : n;
  TORCH_CHECK(begin[0] == 0 && begin[segments] == m, "offsets: expected 0 … ", m, ", got ",
              begin[0], " … ", begin[segments]);
  at::Tensor out = at::empty({segments, hidden}, rows.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, rows.scalar_type(), "segment_sum", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* row = rows.const_data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    each_block(segments, hidden * (m / std::max<int64_t>(segments, 1) + 1), [&](int64_t s) {
      sweep<A>(hidden, [&](int64_t i, auto lanes) {
        Vec<A> sum = {};
        for (int64_t j = begin[s]; j < begin[s + 1]; ++j)
          sum += load(row + (from ? from[j] : j) * hidden + i, lanes);
        store(to + s * hidden + i, sum, lanes);
      });
    });
  });
  return out;
}

}  // namespace conclave::ops
