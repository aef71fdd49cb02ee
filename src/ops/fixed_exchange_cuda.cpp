#include "ops/fixed_exchange_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "base/check.h"
#include "kernels/fixed_exchange.h"
#include "ops/expert_layout_cuda.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {

SentLayout sent_layout(const at::Tensor& ids, int64_t experts, int64_t ranks, int64_t capacity,
                       const at::Tensor& needed) {
  const int64_t tokens = ids.size(0), top_k = ids.size(1);
  TORCH_CHECK(top_k <= kernels::kMostSlots, "sent_layout: expected at most ", kernels::kMostSlots,
              " slots a token on CUDA, got ", top_k);
  const OnDevice stream(ids, {{"needed", needed}});
  const at::TensorOptions integer = ids.options().dtype(at::kInt);
  SentLayout out{at::full({ranks * capacity}, -1, integer),
                 at::empty({tokens, std::min(top_k, ranks)}, integer),
                 at::empty({tokens, top_k}, integer),
                 at::full({ranks * (1 + capacity), top_k}, -1, integer)};
  const at::Tensor pairs = at::zeros({ranks}, integer),
                   bins = at::empty({tokens, top_k}, ids.options());
  kernels::SentRows p{};
  p.ids = ids.const_data_ptr<int64_t>();
  p.tokens = tokens, p.capacity = capacity;
  p.top_k = static_cast<int>(top_k), p.ranks = static_cast<int>(ranks);
  p.local = static_cast<int>(experts / ranks);
  p.pairs = pairs.data_ptr<int32_t>();
  kernels::sent_bins(bins.data_ptr<int64_t>(), p, stream);
  const ExpertLayout sorted = expert_layout(bins, ranks + 1);
  p.offsets = sorted.offsets.const_data_ptr<int32_t>();
  p.sorted = sorted.row.const_data_ptr<int32_t>();
  p.token = out.token.data_ptr<int32_t>();
  p.rows = out.rows.data_ptr<int32_t>();
  p.slot = out.slot.data_ptr<int32_t>();
  p.message = out.message.data_ptr<int32_t>();
  p.needed = needed.data_ptr<int64_t>();
  kernels::sent_rows(p, stream);
  return out;
}

ArrivedLayout arrived_layout(const at::Tensor& message, int64_t local, int64_t ranks, int64_t room,
                             const at::Tensor& needed) {
  const int64_t top_k = message.size(1), rows = message.size(0) - ranks;
  const OnDevice stream(message, {{"needed", needed}});
  const auto integers = [&](at::IntArrayRef shape) { return at::empty(shape, message.options()); };
  ArrivedLayout out{integers({local + 1}), integers({room}), integers({room}),
                    integers({rows, top_k})};
  const at::Tensor bins = at::empty({rows, top_k}, message.options().dtype(at::kLong));
  kernels::ArrivedRows p{};
  p.message = message.const_data_ptr<int32_t>();
  p.capacity = rows / ranks, p.room = room;
  p.top_k = static_cast<int>(top_k), p.ranks = static_cast<int>(ranks);
  p.local = static_cast<int>(local);
  kernels::arrived_bins(bins.data_ptr<int64_t>(), p, stream);
  const ExpertLayout sorted = expert_layout(bins, local + 1);
  p.begins = sorted.offsets.const_data_ptr<int32_t>();
  p.pair = sorted.pair.const_data_ptr<int32_t>();
  p.sorted = sorted.row.const_data_ptr<int32_t>();
  p.offsets = out.offsets.data_ptr<int32_t>();
  p.row = out.row.data_ptr<int32_t>();
  p.slot = out.slot.data_ptr<int32_t>();
  p.expert_row = out.expert_row.data_ptr<int32_t>();
  p.needed = needed.data_ptr<int64_t>() + 1;
  kernels::arrived_rows(p, stream);
  return out;
}

at::Tensor take_or_zero(const at::Tensor& x, const at::Tensor& index) {
  const OnDevice stream(x, {{"index", index}});
  at::Tensor out = at::empty({index.size(0), x.size(1)}, x.options());
  kernels::take_or_zero(out.data_ptr(), x.const_data_ptr(), index.const_data_ptr<int32_t>(),
                        index.size(0), x.size(1) * static_cast<int64_t>(x.element_size()), stream);
  return out;
}

at::Tensor sum_of_rows(const at::Tensor& x, const at::Tensor& index) {
  const OnDevice stream(x, {{"index", index}});
  at::Tensor sum = at::empty({index.size(0), x.size(1)}, x.options());
  const auto run = [&](auto element) {
    using S = decltype(element);
    kernels::sum_of_rows<kernel_t<S>>(out<S>(sum), in<S>(x), index.const_data_ptr<int32_t>(),
                                      index.size(0), static_cast<int>(index.size(1)), x.size(1),
                                      stream);
  };
  if (x.scalar_type() == at::kBFloat16) {
    run(c10::BFloat16());
  } else {
    CHECK_DTYPE(x, at::kFloat);
    run(float());
  }
  return sum;
}

at::Tensor element_or_zero(const at::Tensor& x, const at::Tensor& index) {
  const OnDevice stream(x, {{"index", index}});
  at::Tensor taken = at::empty(index.sizes(), x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "element_or_zero", [&] {
    kernels::element_or_zero(out<scalar_t>(taken), in<scalar_t>(x), index.const_data_ptr<int32_t>(),
                             index.numel(), stream);
  });
  return taken;
}

}  // namespace conclave::ops::cuda
