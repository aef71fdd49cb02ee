#include <ATen/OpMathType.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "ops/attention_cuda.h"

namespace conclave::ops::cuda {
namespace {

// One document, widened, by groups of heads: q [kv_heads, group, queries, head_dim], k, v
// [kv_heads, 1, keys, dim].
struct MathDocument {
  at::Tensor q, k, v;
  at::Tensor hidden;  // [queries, keys] bool: what a query does not see

  at::Tensor scores(double scale) const {  // [kv_heads, group, queries, keys]
    return at::matmul(q, k.transpose(2, 3))
        .mul_(scale)
        .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  }
};

// rows begin … end of [rows, heads, dim] as [kv_heads, heads / kv_heads, rows, dim] of the wide
// type.
at::Tensor by_groups(const at::Tensor& t, int64_t begin, int64_t end, int64_t kv_heads,
                     at::ScalarType wide) {
  return t.slice(0, begin, end)
      .to(wide)
      .view({end - begin, kv_heads, t.size(1) / kv_heads, t.size(2)})
      .permute({1, 2, 0, 3});
}

// The inverse: [kv_heads, group, rows, dim] → [rows, heads, dim].
at::Tensor by_rows(const at::Tensor& t) { return t.permute({2, 0, 1, 3}).flatten(1, 2); }

at::ScalarType wide_of(const at::Tensor& t) { return at::toOpMathType(t.scalar_type()); }

MathDocument math_document(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           int64_t query, int64_t queries, int64_t key, int64_t keys,
                           int64_t window) {
  const int64_t kv_heads = k.size(1);
  const at::ScalarType wide = wide_of(q);
  MathDocument d{by_groups(q, query, query + queries, kv_heads, wide),
                 by_groups(k, key, key + keys, kv_heads, wide),
                 by_groups(v, key, key + keys, kv_heads, wide),
                 {}};
  const at::TensorOptions integer = q.options().dtype(at::kLong);
  // How far behind a query's own key a key lies.
  const at::Tensor behind =
      at::arange(keys - queries, keys, integer).unsqueeze(1).sub(at::arange(keys, integer));
  d.hidden = behind.lt(0);
  if (window > 0) d.hidden.logical_or_(behind.ge(window));
  return d;
}

// Sinks [heads] as [kv_heads, group, 1].
at::Tensor sinks_by_groups(const AttentionOptions& options, const at::Tensor& k,
                           at::ScalarType wide) {
  return options.sinks.to(wide).view({k.size(1), -1, 1});
}

// f(document's first query, queries, first key, keys) of documents with queries.
template <class F>
void each_document(std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                   const F& f) {
  for (size_t d = 0; d + 1 < q_offsets.size(); ++d)
    if (q_offsets[d + 1] > q_offsets[d])
      f(q_offsets[d], q_offsets[d + 1] - q_offsets[d], k_offsets[d],
        k_offsets[d + 1] - k_offsets[d]);
}

}  // namespace

Attention attention_math(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                         const AttentionOptions& options) {
  const at::ScalarType wide = wide_of(q);
  Attention to{at::empty({q.size(0), q.size(1), v.size(2)}, q.options()),
               at::empty({q.size(1), q.size(0)}, q.options().dtype(wide))};
  each_document(
      q_offsets, k_offsets, [&](int64_t query, int64_t queries, int64_t key, int64_t keys) {
        const MathDocument d = math_document(q, k, v, query, queries, key, keys, options.window);
        at::Tensor scores = d.scores(options.scale),
                   lse = at::logsumexp(scores, {-1});  // [kv_heads, group, queries]
        if (options.sinks.defined()) lse = at::logaddexp(lse, sinks_by_groups(options, k, wide));
        const at::Tensor p = scores.sub_(lse.unsqueeze(-1)).exp_();
        to.out.slice(0, query, query + queries).copy_(by_rows(at::matmul(p, d.v)));
        to.lse.slice(1, query, query + queries).copy_(lse.flatten(0, 1));
      });
  return to;
}

AttentionGrad attention_math_backward(const at::Tensor& dout, const at::Tensor& q,
                                      const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& out, const at::Tensor& lse,
                                      std::span<const int64_t> q_offsets,
                                      std::span<const int64_t> k_offsets,
                                      const AttentionOptions& options) {
  const at::ScalarType wide = wide_of(q);
  const int64_t kv_heads = k.size(1);
  // Keys of a document without queries get no gradient.
  AttentionGrad to{at::empty(q.sizes(), q.options()),
                   at::zeros(k.sizes(), k.options()),
                   at::zeros(v.sizes(), v.options()),
                   {}};
  if (options.sinks.defined()) to.dsinks = at::zeros({q.size(1)}, q.options().dtype(wide));
  each_document(
      q_offsets, k_offsets, [&](int64_t query, int64_t queries, int64_t key, int64_t keys) {
        const MathDocument d = math_document(q, k, v, query, queries, key, keys, options.window);
        const at::Tensor lse_d =
            lse.slice(1, query, query + queries).reshape({kv_heads, -1, queries});
        const at::Tensor dout_d = by_groups(dout, query, query + queries, kv_heads, wide);
        const at::Tensor delta =  // [kv_heads, group, queries]
            dout_d.mul(by_groups(out, query, query + queries, kv_heads, wide)).sum(-1);
        const at::Tensor p = d.scores(options.scale).sub_(lse_d.unsqueeze(-1)).exp_();
        const at::Tensor ds = at::matmul(dout_d, d.v.transpose(2, 3))
                                  .sub_(delta.unsqueeze(-1))
                                  .mul_(p)
                                  .mul_(options.scale);
        to.dq.slice(0, query, query + queries).copy_(by_rows(at::matmul(ds, d.k)));
        auto over_group = [](const at::Tensor& t) { return by_rows(t.sum(1, /*keepdim=*/true)); };
        to.dk.slice(0, key, key + keys).copy_(over_group(at::matmul(ds.transpose(2, 3), d.q)));
        to.dv.slice(0, key, key + keys).copy_(over_group(at::matmul(p.transpose(2, 3), dout_d)));
        if (to.dsinks.defined())
          to.dsinks.sub_(
              sinks_by_groups(options, k, wide).sub(lse_d).exp_().mul_(delta).sum(-1).flatten());
      });
  return to;
}

}  // namespace conclave::ops::cuda
