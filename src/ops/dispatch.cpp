#include "ops/dispatch.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/expert_layout_cuda.h"
#include "ops/gather_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

void check_layout(const ExpertLayout& layout) {
  const at::Tensor &row = layout.row, &pair = layout.pair;
  TORCH_CHECK(row.defined() && row.dim() == 2,
              "row: expected the [tokens, top_k] of an expert_layout");
  const int64_t routed = row.numel();
  CHECK_SHAPE(pair, routed);
}

}  // namespace

ExpertLayout expert_layout(const at::Tensor& ids, int64_t experts) {
  TORCH_CHECK(ids.dim() == 2, "ids: expected [tokens, top_k], got ", ids.sizes());
  const int64_t tokens = ids.size(0), top_k = ids.size(1), routed = tokens * top_k;
  CHECK_SHAPE(ids, tokens, top_k);
  CHECK_DTYPE(ids, at::kLong);
  if constexpr (kCudaBuild)
    if (ids.is_cuda()) return cuda::expert_layout(ids, experts);
  ExpertLayout out{at::zeros({experts + 1}, ids.options()), at::empty({routed}, ids.options()),
                   at::empty_like(ids)};
  const int64_t* id = ids.const_data_ptr<int64_t>();
  int64_t* offsets = out.offsets.data_ptr<int64_t>();
  std::vector<int64_t> last_token(experts, -1);
  for (int64_t i = 0; i < routed; ++i) {
    TORCH_CHECK(id[i] >= 0 && id[i] < experts, "ids: expected experts 0 … ", experts - 1, ", got ",
                id[i], " at token ", i / top_k);
    TORCH_CHECK(last_token[id[i]] != i / top_k, "ids: expected each expert once a token, got ",
                id[i], " twice at token ", i / top_k);
    last_token[id[i]] = i / top_k;
    ++offsets[id[i] + 1];
  }
  for (int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  // A counting sort: pairs in ascending order take the next row of their expert.
  std::vector<int64_t> next(offsets, offsets + experts);
  int64_t *pair = out.pair.data_ptr<int64_t>(), *row = out.row.data_ptr<int64_t>();
  for (int64_t i = 0; i < routed; ++i) {
    row[i] = next[id[i]]++;
    pair[row[i]] = i;
  }
  return out;
}

at::Tensor gather_rows(const at::Tensor& x, const ExpertLayout& layout) {
  check_layout(layout);
  TORCH_CHECK(x.dim() == 2, "x: expected [tokens, hidden], got ", x.sizes());
  const int64_t tokens = layout.row.size(0), top_k = layout.row.size(1), hidden = x.size(1),
                routed = tokens * top_k;
  CHECK_SHAPE(x, tokens, hidden);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::gather_rows(x, layout);
  at::Tensor out = at::empty({routed, hidden}, x.options());
  const int64_t bytes = hidden * static_cast<int64_t>(x.element_size());
  const auto* from = static_cast<const std::byte*>(x.const_data_ptr());
  auto* to = static_cast<std::byte*>(out.data_ptr());
  const int64_t* pair = layout.pair.const_data_ptr<int64_t>();
  each_block(routed, hidden, [&](int64_t r) {
    std::memcpy(to + r * bytes, from + pair[r] / top_k * bytes, bytes);
  });
  return out;
}

at::Tensor gather_sum(const at::Tensor& rows, const ExpertLayout& layout) {
  check_layout(layout);
  TORCH_CHECK(rows.dim() == 2, "rows: expected [routed, hidden], got ", rows.sizes());
  const int64_t tokens = layout.row.size(0), top_k = layout.row.size(1), hidden = rows.size(1),
                routed = tokens * top_k;
  CHECK_SHAPE(rows, routed, hidden);
  if constexpr (kCudaBuild)
    if (rows.is_cuda()) return cuda::gather_sum(rows, layout);
  at::Tensor out = at::empty({tokens, hidden}, rows.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, rows.scalar_type(), "gather_sum", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* from = rows.const_data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    const int64_t* row = layout.row.const_data_ptr<int64_t>();
    each_block(tokens, hidden * top_k, [&](int64_t t) {
      sweep<A>(hidden, [&](int64_t i, auto lanes) {
        Vec<A> sum = {};
        for (int64_t j = t * top_k; j < (t + 1) * top_k; ++j)
          sum += load(from + row[j] * hidden + i, lanes);
        store(to + t * hidden + i, sum, lanes);
      });
    });
  });
  return out;
}

at::Tensor gather_weights(const at::Tensor& weights, const ExpertLayout& layout) {
  check_layout(layout);
  const int64_t tokens = layout.row.size(0), top_k = layout.row.size(1), routed = tokens * top_k;
  CHECK_SHAPE(weights, tokens, top_k);
  if constexpr (kCudaBuild)
    if (weights.is_cuda()) return cuda::gather_elements(weights, layout.pair);
  at::Tensor out = at::empty({routed}, weights.options());
  AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "gather_weights", [&] {
    const scalar_t* from = weights.const_data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    const int64_t* pair = layout.pair.const_data_ptr<int64_t>();
    for (int64_t r = 0; r < routed; ++r) to[r] = from[pair[r]];
  });
  return out;
}

at::Tensor gather_weights_backward(const at::Tensor& dweights, const ExpertLayout& layout) {
  check_layout(layout);
  const int64_t tokens = layout.row.size(0), top_k = layout.row.size(1), routed = tokens * top_k;
  CHECK_SHAPE(dweights, routed);
  if constexpr (kCudaBuild)
    if (dweights.is_cuda()) return cuda::gather_elements(dweights, layout.row);
  at::Tensor out = at::empty({tokens, top_k}, dweights.options());
  AT_DISPATCH_FLOATING_TYPES(dweights.scalar_type(), "gather_weights_backward", [&] {
    const scalar_t* from = dweights.const_data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    const int64_t* row = layout.row.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < routed; ++i) to[i] = from[row[i]];
  });
  return out;
}

}  // namespace conclave::ops
