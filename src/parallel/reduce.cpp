#include "parallel/reduce.h"

#include <ATen/ops/empty_like.h>
#include <c10/util/Exception.h>

#include <vector>

namespace conclave::parallel {
namespace {

void sum_here(at::Tensor kept, const at::Tensor& sent, comm::Comm& shards) {
  const int64_t n = kept.numel();
  at::Tensor arrived = at::empty_like(sent);
  const std::vector<int64_t> rows(static_cast<size_t>(shards.size()), n);
  shards.all_to_all(arrived, sent, rows, rows);
  kept.copy_(arrived.narrow(0, 0, n));
  for (int64_t r = 1; r < shards.size(); ++r) kept.add_(arrived.narrow(0, r * n, n));
}

}  // namespace

void reduce_gradient(at::Tensor kept, const at::Tensor& whole, comm::Comm& shards,
                     comm::Comm& replicas, Reduction reduction) {
  TORCH_CHECK(whole.numel() == kept.numel() * shards.size(), "gradient: expected ", shards.size(),
              " · ", kept.numel(), " elements, got ", whole.numel());
  if (shards.size() > 1) {
    if (reduction == Reduction::reduce_scatter)
      shards.reduce_scatter(kept, whole);
    else
      sum_here(kept, reduction == Reduction::all_to_all ? whole : whole.to(at::kBFloat16), shards);
  }
  if (replicas.size() > 1) replicas.all_reduce(kept);
}

}  // namespace conclave::parallel
