#include "ops/cross_entropy_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/squared_sum.h"
#include "ops/cross_entropy.h"
#include "ops/launch_cuda.h"
#include "ops/matmul.h"

namespace conclave::ops::cuda {

at::Tensor linear_cross_entropy_(at::Tensor loss_sum, const at::Tensor& x, const at::Tensor& w,
                                 const at::Tensor& labels, double seed, const at::Tensor& dw,
                                 int64_t max_logits) {
  const OnDevice stream(x, {{"w", w}, {"labels", labels}, {"dw", dw}, {"loss_sum", loss_sum}});
  const int64_t tokens = x.size(0), vocab = w.size(0);
  at::Tensor dx = dw.defined() ? at::empty_like(x) : at::Tensor();
  if (tokens == 0) return dx;
  // As few chunks as max_logits allows, all of nearly one size: a multiple of 128 rows where it can
  // be, which cuBLAS's tiles divide.
  const int64_t most = std::clamp<int64_t>(max_logits / std::max<int64_t>(vocab, 1), 1, tokens),
                chunks = kernels::blocks_of(tokens, most),
                even = kernels::blocks_of(kernels::blocks_of(tokens, chunks), 128) * 128,
                chunk = std::min(most, even);
  at::Tensor memory = at::empty({chunk, vocab}, x.options()),
             losses = at::empty({tokens}, x.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t count = std::min(chunk, tokens - begin);
    at::Tensor logits = memory.narrow(0, 0, count);
    const at::Tensor rows = x.narrow(0, begin, count);
    at::mm_out(logits, rows, w.t());
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "linear_cross_entropy", [&] {
      kernels::cross_entropy(losses.data_ptr<double>() + begin, out<scalar_t>(logits),
                             labels.const_data_ptr<int64_t>() + begin, seed, dw.defined(),
                             {count, vocab, kIgnore}, stream);
    });
    if (!dw.defined()) continue;
    at::Tensor dx_rows = dx.narrow(0, begin, count);
    at::mm_out(dx_rows, logits, w);
    ops::linear_backward_weight_(dw, logits, rows);
  }
  kernels::add_sum(loss_sum.data_ptr<double>(), losses.const_data_ptr<double>(), tokens, stream);
  return dx;
}

}  // namespace conclave::ops::cuda
