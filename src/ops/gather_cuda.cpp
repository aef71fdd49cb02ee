#include "ops/gather_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "base/check.h"
#include "kernels/gather.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

kernels::GatherSizes sizes(const ExpertLayout& layout, int64_t hidden) {
  CHECK_DTYPE(layout.row, at::kInt);
  return {layout.row.size(0), hidden, static_cast<int>(layout.row.size(1))};
}

}  // namespace

at::Tensor gather_rows(const at::Tensor& x, const ExpertLayout& layout) {
  const OnDevice stream(x, {{"row", layout.row}});
  const kernels::GatherSizes s = sizes(layout, x.size(1));
  at::Tensor rows = at::empty({s.tokens * s.top_k, s.hidden}, x.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "gather_rows", [&] {
    kernels::gather_rows(out<scalar_t>(rows), in<scalar_t>(x), layout.row.const_data_ptr<int32_t>(),
                         s, stream);
  });
  return rows;
}

at::Tensor gather_sum(const at::Tensor& rows, const ExpertLayout& layout) {
  const OnDevice stream(rows, {{"row", layout.row}});
  const kernels::GatherSizes s = sizes(layout, rows.size(1));
  at::Tensor sum = at::empty({s.tokens, s.hidden}, rows.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, rows.scalar_type(), "gather_sum", [&] {
    kernels::gather_sum(out<scalar_t>(sum), in<scalar_t>(rows),
                        layout.row.const_data_ptr<int32_t>(), s, stream);
  });
  return sum;
}

at::Tensor gather_elements(const at::Tensor& from, const at::Tensor& index) {
  const OnDevice stream(from, {{"index", index}});
  CHECK_DTYPE(index, at::kInt);
  at::Tensor gathered = at::empty(index.sizes(), from.options());
  AT_DISPATCH_FLOATING_TYPES(from.scalar_type(), "gather_elements", [&] {
    kernels::gather_elements(out<scalar_t>(gathered), in<scalar_t>(from),
                             index.const_data_ptr<int32_t>(), index.numel(), stream);
  });
  return gathered;
}

}  // namespace conclave::ops::cuda
