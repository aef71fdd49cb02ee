#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "base/check.h"
#include "ops/attention.h"
#include "ops/attention_tiles.h"
#include "ops/blocks.h"
#include "ops/gemm.h"
#include "ops/softmax_rows.h"

namespace conclave::ops {
namespace {

struct Operands {
  const at::Tensor &dout, &q, &k, &v, &out, &lse;
};

// With p = e^(scale · q·kᵀ − lse) made again block by block, delta = Σ dout · out over head_dim, dp
// = dout · vᵀ:
//   ds = scale · p · (dp − delta);  dq = ds · k;  dk = dsᵀ · q;  dv = pᵀ · dout.    Source: arXiv
//   2205.14135, algorithm 4.
// A task is one head of one document, so no two tasks add to the same place; dk and dv are kept per
// query head where a group is larger than one, and summed afterwards in head order.
template <class T>
class Backward {
  using A = acc_t<T>;
  static constexpr bool kConverts = !std::is_same_v<T, A>;

 public:
  // dk, dv [keys, heads, head_dim] of A, zero at the beginning.
  Backward(const AttentionSizes& n, const Operands& from, double scale, at::Tensor& dq,
           at::Tensor& dk, at::Tensor& dv)
      : n_(n),
        scale_(static_cast<A>(scale)),
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
    const int64_t tile = Parts<A>::rounded(kQueryRows * n_.head_dim),
                  columns = Parts<A>::rounded(kKeyColumns * n_.head_dim);
    return 2 * kQueryRows * kScoresLd + 2 * tile + kQueryRows +
           (kConverts ? 2 * tile + 2 * columns : 0);
  }

  // One head of the document with queries q … q + queries and keys key … key + keys.
  void differentiate(int64_t head, int64_t q, int64_t queries, int64_t key, int64_t keys,
                     A* scratch) const {
    for (int64_t r = 0; r < queries; r += kQueryRows)
      tile(head, q + r, std::min(kQueryRows, queries - r), key, keys - queries + r + 1, scratch);
  }

 private:
  // Queries token … token + rows, the first of which sees `seen` keys.
  void tile(int64_t head, int64_t token, int64_t rows, int64_t key, int64_t seen,
            A* scratch) const {
    Parts<A> parts(scratch);
    A* p = parts.take(kQueryRows * kScoresLd);
    A* ds = parts.take(kQueryRows * kScoresLd);
    A* dq_sum = parts.take(kQueryRows * n_.head_dim);
    A* delta = parts.take(kQueryRows);
    A* q_scratch = kConverts ? parts.take(kQueryRows * n_.head_dim) : nullptr;
    A* dout_scratch = kConverts ? parts.take(kQueryRows * n_.head_dim) : nullptr;
    A* out_scratch = parts.take(kConverts ? kQueryRows * n_.head_dim : 0);
    A* k_scratch = kConverts ? parts.take(kKeyColumns * n_.head_dim) : nullptr;
    A* v_scratch = kConverts ? parts.take(kKeyColumns * n_.head_dim) : nullptr;
    const int64_t d = n_.head_dim, ld = n_.heads * d, kv_ld = n_.kv_heads * d,
                  at = token * ld + head * d;
    const Rows<A> q = as_arithmetic(q_ + at, rows, d, ld, q_scratch),
                  dout = as_arithmetic(dout_ + at, rows, d, ld, dout_scratch);
    const Rows<A> out = as_arithmetic(out_ + at, rows, d, ld, out_scratch);
    for (int64_t r = 0; r < rows; ++r)
      delta[r] = row_dot(dout.data + r * dout.ld, out.data + r * out.ld, d);
    const A* lse = lse_ + head * n_.tokens + token;
    const int64_t keys = seen + rows - 1;
    for (int64_t first = 0; first < keys; first += kKeyColumns) {
      const int64_t columns = std::min(kKeyColumns, keys - first);
      const int64_t kv_at = (key + first) * kv_ld + head / n_.group() * d,
                    d_at = (key + first) * ld + head * d;
      const Rows<A> k = as_arithmetic(k_ + kv_at, columns, d, kv_ld, k_scratch),
                    v = as_arithmetic(v_ + kv_at, columns, d, kv_ld, v_scratch);
      gemm(false, true, rows, columns, d, scale_, q.data, q.ld, k.data, k.ld, A(0), p, kScoresLd);
      gemm(false, true, rows, columns, d, A(1), dout.data, dout.ld, v.data, v.ld, A(0), ds,
           kScoresLd);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t visible = std::clamp<int64_t>(seen + r - first, 0, columns);
        score_gradient(p + r * kScoresLd, ds + r * kScoresLd, visible, columns, lse[r], delta[r]);
      }
      gemm(true, false, columns, d, rows, A(1), p, kScoresLd, dout.data, dout.ld, A(1), dv_ + d_at,
           ld);
      gemm(true, false, columns, d, rows, A(1), ds, kScoresLd, q.data, q.ld, A(1), dk_ + d_at, ld);
      gemm(false, false, rows, d, columns, A(1), ds, kScoresLd, k.data, k.ld, A(first > 0), dq_sum,
           d);
    }
    for (int64_t r = 0; r < rows; ++r)
      sweep<A>(d, [&](int64_t i, auto lanes) {
        store(dq_ + at + r * ld + i, load(dq_sum + r * d + i, lanes), lanes);
      });
  }

  // A row of scores becomes p, a row of dp becomes ds; both are 0 behind the visible keys.
  void score_gradient(A* p, A* ds, int64_t visible, int64_t columns, A lse, A delta) const {
    sweep<A>(visible, [=, scale = scale_](int64_t i, auto lanes) {
      const Vec<A> e = exp(load(p + i, lanes) - lse);
      store(p + i, e, lanes);
      store(ds + i, e * (load(ds + i, lanes) - delta) * scale, lanes);
    });
    std::fill(p + visible, p + columns, A(0));
    std::fill(ds + visible, ds + columns, A(0));
  }

  AttentionSizes n_;
  A scale_;
  const T *dout_, *q_, *k_, *v_, *out_;
  const A* lse_;
  T* dq_;
  A *dk_, *dv_;
};

// to [keys, kv_heads, head_dim] = Σ of from [keys, heads, head_dim] over the heads of each group,
// in order.
template <class T>
void sum_groups(const AttentionSizes& n, const at::Tensor& from_, at::Tensor& to_) {
  using A = acc_t<T>;
  const A* from = from_.const_data_ptr<A>();
  T* to = to_.data_ptr<T>();
  each_block(n.keys, n.heads * n.head_dim, [&](int64_t key) {
    for (int64_t kv = 0; kv < n.kv_heads; ++kv)
      for (int64_t i = 0; i < n.head_dim; ++i) {
        A sum = 0;
        for (int64_t h = kv * n.group(); h < (kv + 1) * n.group(); ++h)
          sum += from[(key * n.heads + h) * n.head_dim + i];
        to[(key * n.kv_heads + kv) * n.head_dim + i] = static_cast<T>(sum);
      }
  });
}

}  // namespace

AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                 std::span<const int64_t> q_offsets,
                                 std::span<const int64_t> k_offsets, double scale) {
  const AttentionSizes n = attention_sizes(q, k, v, q_offsets, k_offsets);
  const int64_t tokens = n.tokens, heads = n.heads, head_dim = n.head_dim;
  const at::ScalarType arithmetic = at::toOpMathType(q.scalar_type());
  CHECK_SHAPE(dout, tokens, heads, head_dim);
  CHECK_DTYPE(dout, q.scalar_type());
  CHECK_SHAPE(out, tokens, heads, head_dim);
  CHECK_DTYPE(out, q.scalar_type());
  CHECK_SHAPE(lse, heads, tokens);
  CHECK_DTYPE(lse, arithmetic);
  at::Tensor dk = at::zeros({n.keys, heads, head_dim}, lse.options()),
             dv = at::zeros({n.keys, heads, head_dim}, lse.options());
  AttentionGrad to{at::empty(q.sizes(), q.options()), dk, dv};
  const int64_t docs = static_cast<int64_t>(q_offsets.size()) - 1;
  const int64_t cost = docs == 0 ? 1 : 10 * head_dim * tokens * kQueryRows / docs;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention_backward", [&] {
    const Backward<scalar_t> backward(n, {dout, q, k, v, out, lse}, scale, to.dq, dk, dv);
    const int64_t scratch = backward.scratch();
    at::Tensor all = at::empty({at::get_num_threads(), scratch}, lse.options());
    each_block(docs * heads, cost, [&](int64_t i) {
      const auto doc = static_cast<size_t>(i / heads);
      backward.differentiate(i % heads, q_offsets[doc], q_offsets[doc + 1] - q_offsets[doc],
                             k_offsets[doc], k_offsets[doc + 1] - k_offsets[doc],
                             all.data_ptr<acc_t<scalar_t>>() + at::get_thread_num() * scratch);
    });
    if (n.group() == 1 && arithmetic == q.scalar_type()) return;
    to.dk = at::empty(k.sizes(), k.options());
    to.dv = at::empty(v.sizes(), v.options());
    sum_groups<scalar_t>(n, dk, to.dk);
    sum_groups<scalar_t>(n, dv, to.dv);
  });
  return to;
}

}  // namespace conclave::ops
