#include "ops/embedding_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

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
  TORCH_CHECK(s.tokens <= INT32_MAX / 2 && s.tokens * ((s.hidden + 63) / 64) <= INT32_MAX,
              "dy: expected fewer than 2³⁰ tokens and 2³⁷ elements on CUDA, got ", dy.sizes());
  const at::Tensor scratch = at::empty({2, s.tokens, 2}, ids.options().dtype(at::kInt));
  auto* order = reinterpret_cast<kernels::Occurrence*>(scratch.data_ptr<int32_t>());
  kernels::order_by_id(order, order + s.tokens, ids.const_data_ptr<int64_t>(), s, stream);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dy.scalar_type(), "embedding_backward_", [&] {
    auto run = [&](auto* to) {
      kernels::embedding_backward(to, order, in<scalar_t>(dy), s, padding, stream);
    };
    if (dweight.scalar_type() == dy.scalar_type()) return run(out<scalar_t>(dweight));
    CHECK_DTYPE(dweight, at::toOpMathType(dy.scalar_type()));
    run(out<wide_t<scalar_t>>(dweight));
  });
}

}  // namespace conclave::ops::cuda
