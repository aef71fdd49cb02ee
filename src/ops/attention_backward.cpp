#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "base/check.h"
#include "ops/attention.h"
#include "ops/attention_cuda.h"
#include "ops/attention_tiles.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/gemm.h"
#include "ops/softmax_rows.h"

namespace conclave::ops {
namespace {

struct Operands {
  const at::Tensor &dout, &q, &k, &v, &out, &lse;
};

// With p = e^(scale · q·kᵀ − lse) made again block by block, delta = Σ dout · out over v_dim, dp =
// dout · vᵀ:
//   ds = scale · p · (dp − delta);  dq = ds · k;  dk = dsᵀ · q;  dv = pᵀ · dout.    Source: arXiv
//   2205.14135, algorithm 4.
// A sink is a column of scores whose value is 0, so its dp is 0: dsink = −Σ e^(sink − lse) · delta.
// A task is one head of one document, so no two tasks add to the same place; dk and dv are kept per
// query head where a group is larger than one, and summed afterwards in head order.
template <class T>
class Backward {
  using A = acc_t<T>;
  static constexpr bool kConverts = !std::is_same_v<T, A>;

 public:
  // dk [keys, heads, head_dim] and dv [keys, heads, v_dim] of A, zero at the beginning.
  Backward(const AttentionSizes& n, const Operands& from, double scale, const at::Tensor& sinks,
           at::Tensor& dq, at::Tensor& dk, at::Tensor& dv)
      : n_(n),
        scale_(static_cast<A>(scale)),
        sinks_(sinks.defined() ? sinks.const_data_ptr<A>() : nullptr),
        dout_(from.dout.const_data_ptr<T>()),
        q_(from.q.const_data_ptr<T>()),
        k_(from.k.const_data_ptr<T>()),
        v_(from.v.const_data_ptr<T>()),
        out_(from.out.const_data_ptr<T>()),
        lse_(from.lse.const_data_ptr<A>()),
        dq_(dq.data_ptr<T>()),
        dk_(dk.data_ptr<A>()),
        dv_(dv.data_ptr<A>()) {}

  int64_t scratch() const {
    auto matrix = [](int64_t rows, int64_t width) { return Parts<A>::rounded(rows * width); };
    const int64_t d = n_.head_dim, vd = n_.v_dim;
    const int64_t converted = matrix(kQueryRows, d) + 2 * matrix(kQueryRows, vd) +
                              matrix(kKeyColumns, d) + matrix(kKeyColumns, vd);
    return 2 * kQueryRows * kScoresLd + matrix(kQueryRows, d) + kQueryRows +
           (kConverts ? converted : 0);
  }

  // One head of the document with queries q … q + queries and keys key … key + keys. Returns what
  // the document adds to the gradient of the head's sink.
  A differentiate(int64_t head, int64_t q, int64_t queries, int64_t key, int64_t keys,
                  A* scratch) const {
    A dsink = 0;
    for (int64_t r = 0; r < queries; r += kQueryRows)
      dsink += tile(head, q + r, std::min(kQueryRows, queries - r), key, keys - queries + r + 1,
                    scratch);
    return dsink;
  }

 private:
  // Queries token … token + rows; `seen` keys up to the first one's own.
  A tile(int64_t head, int64_t token, int64_t rows, int64_t key, int64_t seen, A* scratch) const {
    Parts<A> parts(scratch);
    A* p = parts.take(kQueryRows * kScoresLd);
    A* ds = parts.take(kQueryRows * kScoresLd);
    A* dq_sum = parts.take(kQueryRows * n_.head_dim);
    A* delta = parts.take(kQueryRows);
    A* q_scratch = kConverts ? parts.take(kQueryRows * n_.head_dim) : nullptr;
    A* dout_scratch = kConverts ? parts.take(kQueryRows * n_.v_dim) : nullptr;
    A* out_scratch = kConverts ? parts.take(kQueryRows * n_.v_dim) : nullptr;
    A* k_scratch = kConverts ? parts.take(kKeyColumns * n_.head_dim) : nullptr;
    A* v_scratch = kConverts ? parts.take(kKeyColumns * n_.v_dim) : nullptr;
    const int64_t d = n_.head_dim, vd = n_.v_dim, ld = n_.heads * d, v_ld = n_.heads * vd,
                  q_at = token * ld + head * d, out_at = token * v_ld + head * vd;
    const Rows<A> q = as_arithmetic(q_ + q_at, rows, d, ld, q_scratch),
                  dout = as_arithmetic(dout_ + out_at, rows, vd, v_ld, dout_scratch),
                  out = as_arithmetic(out_ + out_at, rows, vd, v_ld, out_scratch);
    for (int64_t r = 0; r < rows; ++r)
      delta[r] = row_dot(dout.data + r * dout.ld, out.data + r * out.ld, vd);
    const A* lse = lse_ + head * n_.tokens + token;
    const int64_t keys = seen + rows - 1, begin = n_.window_begin(seen);
    for (int64_t first = begin; first < keys; first += kKeyColumns) {
      const int64_t columns = std::min(kKeyColumns, keys - first);
      const int64_t kv_at = (key + first) * n_.kv_heads + head / n_.group(),
                    d_at = (key + first) * n_.heads + head;
      const Rows<A> k = as_arithmetic(k_ + kv_at * d, columns, d, n_.kv_heads * d, k_scratch),
                    v = as_arithmetic(v_ + kv_at * vd, columns, vd, n_.kv_heads * vd, v_scratch);
      gemm(false, true, rows, columns, d, scale_, q.data, q.ld, k.data, k.ld, A(0), p, kScoresLd);
      gemm(false, true, rows, columns, vd, A(1), dout.data, dout.ld, v.data, v.ld, A(0), ds,
           kScoresLd);
      for (int64_t r = 0; r < rows; ++r)
        score_gradient(p + r * kScoresLd, ds + r * kScoresLd, visible(n_, seen + r, first, columns),
                       columns, lse[r], delta[r]);
      gemm(true, false, columns, vd, rows, A(1), p, kScoresLd, dout.data, dout.ld, A(1),
           dv_ + d_at * vd, v_ld);
      gemm(true, false, columns, d, rows, A(1), ds, kScoresLd, q.data, q.ld, A(1), dk_ + d_at * d,
           ld);
      gemm(false, false, rows, d, columns, A(1), ds, kScoresLd, k.data, k.ld, A(first > begin),
           dq_sum, d);
    }
    for (int64_t r = 0; r < rows; ++r)
      sweep<A>(d, [&](int64_t i, auto lanes) {
        store(dq_ + q_at + r * ld + i, load(dq_sum + r * d + i, lanes), lanes);
      });
    A dsink = 0;
    for (int64_t r = 0; sinks_ && r < rows; ++r)
      dsink -= std::exp(sinks_[head] - lse[r]) * delta[r];
    return dsink;
  }

  // A row of scores becomes p, a row of dp becomes ds; both are 0 outside the columns it sees.
  void score_gradient(A* p, A* ds, Columns seen, int64_t columns, A lse, A delta) const {
    sweep<A>(seen.size,
             [=, p = p + seen.begin, ds = ds + seen.begin, scale = scale_](int64_t i, auto lanes) {
               const Vec<A> e = exp(load(p + i, lanes) - lse);
               store(p + i, e, lanes);
               store(ds + i, e * (load(ds + i, lanes) - delta) * scale, lanes);
             });
    clear_outside(p, seen, columns);
    clear_outside(ds, seen, columns);
  }

  AttentionSizes n_;
  A scale_;
  const A* sinks_;
  const T *dout_, *q_, *k_, *v_, *out_;
  const A* lse_;
  T* dq_;
  A *dk_, *dv_;
};

// to [keys, kv_heads, width] = Σ of from [keys, heads, width] over the heads of each group, in
// order.
template <class T>
void sum_groups(const AttentionSizes& n, const at::Tensor& from_, at::Tensor& to_) {
  using A = acc_t<T>;
  const A* from = from_.const_data_ptr<A>();
  T* to = to_.data_ptr<T>();
  const int64_t width = to_.size(2);
  each_block(n.keys, n.heads * width, [&](int64_t key) {
    for (int64_t kv = 0; kv < n.kv_heads; ++kv)
      for (int64_t i = 0; i < width; ++i) {
        A sum = 0;
        for (int64_t h = kv * n.group(); h < (kv + 1) * n.group(); ++h)
          sum += from[(key * n.heads + h) * width + i];
        to[(key * n.kv_heads + kv) * width + i] = static_cast<T>(sum);
      }
  });
}

}  // namespace

AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                 std::span<const int64_t> q_offsets,
                                 std::span<const int64_t> k_offsets,
                                 const AttentionOptions& options) {
  const AttentionSizes n = attention_sizes(q, k, v, q_offsets, k_offsets, options);
  const int64_t tokens = n.tokens, heads = n.heads, v_dim = n.v_dim;
  const at::ScalarType arithmetic = at::toOpMathType(q.scalar_type());
  CHECK_SHAPE(dout, tokens, heads, v_dim);
  CHECK_DTYPE(dout, q.scalar_type());
  CHECK_SHAPE(out, tokens, heads, v_dim);
  CHECK_DTYPE(out, q.scalar_type());
  CHECK_SHAPE(lse, heads, tokens);
  CHECK_DTYPE(lse, arithmetic);
  if constexpr (kCudaBuild)
    if (q.is_cuda())
      return cuda::attention_backward(dout, q, k, v, out, lse, q_offsets, k_offsets, options);
  const int64_t docs = static_cast<int64_t>(q_offsets.size()) - 1;
  const at::Tensor sinks = wide_sinks(options, arithmetic);
  at::Tensor dk = at::zeros({n.keys, heads, n.head_dim}, lse.options()),
             dv = at::zeros({n.keys, heads, v_dim}, lse.options()),
             doc_dsinks = at::empty({docs, heads}, lse.options());
  AttentionGrad to{at::empty(q.sizes(), q.options()), dk, dv, {}};
  const int64_t cost = docs == 0 ? 1 : 10 * n.head_dim * tokens * kQueryRows / docs;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention_backward", [&] {
    using A = acc_t<scalar_t>;
    const Backward<scalar_t> backward(n, {dout, q, k, v, out, lse}, options.scale, sinks, to.dq, dk,
                                      dv);
    const int64_t scratch = backward.scratch();
    at::Tensor all = at::empty({at::get_num_threads(), scratch}, lse.options());
    each_block(docs * heads, cost, [&](int64_t i) {
      const auto doc = static_cast<size_t>(i / heads);
      doc_dsinks.data_ptr<A>()[i] = backward.differentiate(
          i % heads, q_offsets[doc], q_offsets[doc + 1] - q_offsets[doc], k_offsets[doc],
          k_offsets[doc + 1] - k_offsets[doc], all.data_ptr<A>() + at::get_thread_num() * scratch);
    });
    if (n.group() == 1 && arithmetic == q.scalar_type()) return;
    to.dk = at::empty(k.sizes(), k.options());
    to.dv = at::empty(v.sizes(), v.options());
    sum_groups<scalar_t>(n, dk, to.dk);
    sum_groups<scalar_t>(n, dv, to.dv);
  });
  if (sinks.defined()) {  // document by document, in order
    to.dsinks = at::zeros({heads}, lse.options());
    for (int64_t d = 0; d < docs; ++d) to.dsinks.add_(doc_dsinks[d]);
  }
  return to;
}

}  // namespace conclave::ops
