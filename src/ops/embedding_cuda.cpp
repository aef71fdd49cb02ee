#include "ops/embedding_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>

#include "base/check.h"
#include "kernels/embedding.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight) {
  const OnDevice stream(weight, {{"ids", ids}});
  const kernels::EmbeddingSizes s{ids.numel(), weight.size(0), weight.size(1)};
  at::Tensor rows = at::empty({s.tokens, s.hidden}, weight.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, weight.scalar_type(), "embedding", [&] {
    kernels::embedding(out<scalar_t>(rows), ids.const_data_ptr<int64_t>(), in<scalar_t>(weight), s,
                       stream);
  });
  return rows;
}

void embedding_backward_(at::Tensor dweight, const at::Tensor& ids, const at::Tensor& dy,
                         int64_t padding) {
  const OnDevice stream(dy, {{"ids", ids}, {"dweight", dweight}});
  if (ids.numel() == 0) return;
  const kernels::EmbeddingSizes s{ids.numel(), dweight.size(0), dweight.size(1)};
  TORCH_CHECK(s.vocab <= INT32_MAX, "vocab: expected at most ", INT32_MAX, ", got ", s.vocab);
  // Stable: tokens ascend among equal ids. 32 bits are sorted in half the passes of 64.
  const auto [sorted, token] =
      at::sort(ids.to(at::kInt), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dy.scalar_type(), "embedding_backward_", [&] {
    auto run = [&](auto* to) {
      kernels::embedding_backward(to, sorted.template const_data_ptr<int32_t>(),
                                  token.template const_data_ptr<int64_t>(), in<scalar_t>(dy), s,
                                  padding, stream);
    };
    if (dweight.scalar_type() == dy.scalar_type()) return run(out<scalar_t>(dweight));
    CHECK_DTYPE(dweight, at::toOpMathType(dy.scalar_type()));
    run(out<wide_t<scalar_t>>(dweight));
  });
}

}  // namespace conclave::ops::cuda
