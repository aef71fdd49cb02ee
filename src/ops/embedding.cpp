#include "ops/embedding.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/embedding_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

void check_ids(const at::Tensor& ids) {
  const int64_t tokens = ids.numel();
  CHECK_SHAPE(ids, tokens);
  CHECK_DTYPE(ids, at::kLong);
}

const int64_t* checked_values(const at::Tensor& ids, int64_t vocab) {
  const int64_t tokens = ids.numel();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens; ++t)
    TORCH_CHECK(id[t] >= 0 && id[t] < vocab, "ids: expected 0 … ", vocab - 1, ", got ", id[t],
                " at token ", t);
  return id;
}

}  // namespace

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2, "weight: expected [vocab, hidden], got ", weight.sizes());
  const int64_t tokens = ids.numel(), vocab = weight.size(0), hidden = weight.size(1);
  CHECK_SHAPE(weight, vocab, hidden);
  check_ids(ids);
  if constexpr (kCudaBuild)
    if (weight.is_cuda()) return cuda::embedding(ids, weight);
  const int64_t* id = checked_values(ids, vocab);
  at::Tensor out = at::empty({tokens, hidden}, weight.options());
  const int64_t bytes = hidden * static_cast<int64_t>(weight.element_size());
  const auto* from = static_cast<const std::byte*>(weight.const_data_ptr());
  auto* to = static_cast<std::byte*>(out.data_ptr());
  each_block(tokens, hidden,
             [&](int64_t t) { std::memcpy(to + t * bytes, from + id[t] * bytes, bytes); });
  return out;
}

void embedding_backward_(at::Tensor dweight, const at::Tensor& ids, const at::Tensor& dy,
                         int64_t padding) {
  TORCH_CHECK(dweight.dim() == 2, "dweight: expected [vocab, hidden], got ", dweight.sizes());
  const int64_t tokens = ids.numel(), vocab = dweight.size(0), hidden = dweight.size(1);
  CHECK_SHAPE(dweight, vocab, hidden);
  CHECK_SHAPE(dy, tokens, hidden);
  check_ids(ids);
  if constexpr (kCudaBuild)
    if (dy.is_cuda()) return cuda::embedding_backward_(dweight, ids, dy, padding);
  CHECK_DTYPE(dweight, at::toOpMathType(dy.scalar_type()));
  const int64_t* id = checked_values(ids, vocab);
  constexpr int64_t kColumns =
      128;  // threads share the columns, so each id's rows are added in order without a sort
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dy.scalar_type(), "embedding_backward_", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* from = dy.const_data_ptr<scalar_t>();
    A* to = dweight.data_ptr<A>();
    each_block((hidden + kColumns - 1) / kColumns, tokens * kColumns, [&](int64_t block) {
      const int64_t begin = block * kColumns, columns = std::min(kColumns, hidden - begin);
      for (int64_t t = 0; t < tokens; ++t) {
        if (id[t] == padding) continue;
        sweep<A>(columns, [&, row = to + id[t] * hidden + begin, x = from + t * hidden + begin](
                              int64_t i, auto lanes) {
          store(row + i, load(row + i, lanes) + load(x + i, lanes), lanes);
        });
      }
    });
  });
}

}  // namespace conclave::ops
