#include <ATen/ops/empty.h>

#include <algorithm>

#include "nn/block.h"

namespace conclave::nn {
namespace {

// A buffer for at least `rows`, with what `old` holds in its first `seen` rows.
at::Tensor grown(const at::Tensor& old, int64_t seen, int64_t rows, const at::Tensor& like) {
  const int64_t capacity = std::max({rows, 2 * seen, int64_t{64}});
  at::Tensor fresh = at::empty({capacity, like.size(1), like.size(2)}, like.options());
  if (seen > 0) fresh.narrow(0, 0, seen).copy_(old.narrow(0, 0, seen));
  return fresh;
}

}  // namespace

KvCache::Seen KvCache::append(int layer, const at::Tensor& k, const at::Tensor& v) {
  Layer& l = layers_.at(static_cast<size_t>(layer));
  const int64_t fresh = k.size(0), total = l.seen + fresh;
  if (!l.k.defined() || total > l.k.size(0)) {
    l.k = grown(l.k, l.seen, total, k);
    l.v = grown(l.v, l.seen, total, v);
  }
  l.k.narrow(0, l.seen, fresh).copy_(k);
  l.v.narrow(0, l.seen, fresh).copy_(v);
  l.seen = total;
  return {l.k.narrow(0, 0, total), l.v.narrow(0, 0, total)};
}

}  // namespace conclave::nn
