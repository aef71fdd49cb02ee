#include "ops/attention.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/attention_tiles.h"
#include "ops/blocks.h"
#include "ops/gemm.h"
#include "ops/softmax_rows.h"

namespace conclave::ops {
namespace {

void check_offsets(std::span<const int64_t> offsets, const char* name, int64_t rows) {
  TORCH_CHECK(!offsets.empty() && offsets.front() == 0 && offsets.back() == rows, name,
              ": expected 0 … ", rows, ", got ", at::IntArrayRef(offsets.data(), offsets.size()));
  TORCH_CHECK(std::is_sorted(offsets.begin(), offsets.end()), name,
              ": expected ascending numbers, got ",
              at::IntArrayRef(offsets.data(), offsets.size()));
}

// Queries attended together. Their rows are either up to kQueryRows tokens of one head, each seeing
// one key more than the one before, or, where a document has a single query (generation), all heads
// of a group at that token, which see the same keys.
struct Tile {
  int64_t rows;
  int64_t q, q_step;      // the first row's token · heads + head, and how much further the next is
  int64_t lse, lse_step;  // the first row's place in lse
  int64_t kv_head;
  int64_t key;              // the document's first key
  int64_t seen, seen_step;  // how many keys the first row sees, and how many more the next does
};

// Documents, then heads, then rows, so that a contiguous part of the list is a fair share.
std::vector<Tile> tiles(const AttentionSizes& n, std::span<const int64_t> q_offsets,
                        std::span<const int64_t> k_offsets) {
  std::vector<Tile> list;
  for (size_t d = 0; d + 1 < q_offsets.size(); ++d) {
    const int64_t q = q_offsets[d], queries = q_offsets[d + 1] - q, key = k_offsets[d],
                  keys = k_offsets[d + 1] - key;
    if (queries == 1) {
      for (int64_t h = 0; h < n.heads; h += n.group())
        list.push_back({n.group(), q * n.heads + h, 1, h * n.tokens + q, n.tokens, h / n.group(),
                        key, keys, 0});
      continue;
    }
    for (int64_t h = 0; h < n.heads; ++h)
      for (int64_t r = 0; r < queries; r += kQueryRows)
        list.push_back({std::min(kQueryRows, queries - r), (q + r) * n.heads + h, n.heads,
                        h * n.tokens + q + r, 1, h / n.group(), key, keys - queries + r + 1, 1});
  }
  return list;
}

template <class T>
class Forward {
  using A = acc_t<T>;
  static constexpr bool kConverts = !std::is_same_v<T, A>;

 public:
  Forward(const AttentionSizes& n, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
          double scale, Attention& to)
      : n_(n),
        scale_(static_cast<A>(scale)),
        q_(q.const_data_ptr<T>()),
        k_(k.const_data_ptr<T>()),
        v_(v.const_data_ptr<T>()),
        out_(to.out.data_ptr<T>()),
        lse_(to.lse.data_ptr<A>()) {}

  // Elements of A that attend() needs, with tiles of at most `rows` rows.
  int64_t scratch(int64_t rows) const {
    const int64_t tile = Parts<A>::rounded(rows * n_.head_dim), column = Parts<A>::rounded(rows);
    const int64_t converted =
        kConverts ? tile + 2 * Parts<A>::rounded(kKeyColumns * n_.head_dim) : 0;
    return rows * kScoresLd + tile + 2 * column + converted;
  }

  void attend(const Tile& t, A* scratch) const {
    Parts<A> parts(scratch);
    A* scores = parts.take(t.rows * kScoresLd);
    A* sum = parts.take(t.rows * n_.head_dim);  // Σ p · v so far
    A* largest = parts.take(t.rows);
    A* total = parts.take(t.rows);  // Σ p so far
    A* q_scratch = kConverts ? parts.take(t.rows * n_.head_dim) : nullptr;
    A* k_scratch = kConverts ? parts.take(kKeyColumns * n_.head_dim) : nullptr;
    A* v_scratch = kConverts ? parts.take(kKeyColumns * n_.head_dim) : nullptr;
    const int64_t d = n_.head_dim, kv_ld = n_.kv_heads * d,
                  keys = t.seen + t.seen_step * (t.rows - 1);
    const Rows<A> q = as_arithmetic(q_ + t.q * d, t.rows, d, t.q_step * d, q_scratch);
    for (int64_t first = 0; first < keys; first += kKeyColumns) {
      const int64_t columns = std::min(kKeyColumns, keys - first),
                    at = (t.key + first) * kv_ld + t.kv_head * d;
      const Rows<A> k = as_arithmetic(k_ + at, columns, d, kv_ld, k_scratch),
                    v = as_arithmetic(v_ + at, columns, d, kv_ld, v_scratch);
      gemm(false, true, t.rows, columns, d, scale_, q.data, q.ld, k.data, k.ld, A(0), scores,
           kScoresLd);
      for (int64_t r = 0; r < t.rows; ++r) {
        A* row = scores + r * kScoresLd;
        const int64_t seen = std::clamp<int64_t>(t.seen + t.seen_step * r - first, 0, columns);
        std::fill(row + seen, row + columns, A(0));
        const A before = first == 0 ? -std::numeric_limits<A>::infinity() : largest[r];
        largest[r] = std::max(before, row_max(row, seen));
        const A p = row_exp(row, seen, largest[r]);
        if (first == 0) {
          total[r] = p;
          continue;
        }
        const A shrink = std::exp(before - largest[r]);
        total[r] = total[r] * shrink + p;
        A* o = sum + r * d;
        sweep<A>(d,
                 [&](int64_t i, auto lanes) { store(o + i, load(o + i, lanes) * shrink, lanes); });
      }
      gemm(false, false, t.rows, d, columns, A(1), scores, kScoresLd, v.data, v.ld, A(first > 0),
           sum, d);
    }
    for (int64_t r = 0; r < t.rows; ++r) {
      T* out = out_ + (t.q + r * t.q_step) * d;
      const A factor = 1 / total[r];
      const A* o = sum + r * d;
      sweep<A>(d,
               [&](int64_t i, auto lanes) { store(out + i, load(o + i, lanes) * factor, lanes); });
      lse_[t.lse + r * t.lse_step] = largest[r] + std::log(total[r]);
    }
  }

 private:
  AttentionSizes n_;
  A scale_;
  const T *q_, *k_, *v_;
  T* out_;
  A* lse_;
};

}  // namespace

AttentionSizes attention_sizes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               std::span<const int64_t> q_offsets,
                               std::span<const int64_t> k_offsets) {
  TORCH_CHECK(q.dim() == 3, "q: expected [tokens, heads, head_dim], got ", q.sizes());
  TORCH_CHECK(k.dim() == 3, "k: expected [keys, kv_heads, head_dim], got ", k.sizes());
  const int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2), keys = k.size(0),
                kv_heads = k.size(1);
  CHECK_SHAPE(q, tokens, heads, head_dim);
  CHECK_SHAPE(k, keys, kv_heads, head_dim);
  CHECK_SHAPE(v, keys, kv_heads, head_dim);
  CHECK_DTYPE(k, q.scalar_type());
  CHECK_DTYPE(v, q.scalar_type());
  TORCH_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0,
              "heads: expected a multiple of kv_heads = ", kv_heads, ", got ", heads);
  TORCH_CHECK(head_dim > 0, "head_dim: expected at least 1, got ", head_dim);
  check_offsets(q_offsets, "q_offsets", tokens);
  check_offsets(k_offsets, "k_offsets", keys);
  TORCH_CHECK(q_offsets.size() == k_offsets.size(), "k_offsets: expected ", q_offsets.size(),
              " numbers as in q_offsets, got ", k_offsets.size());
  for (size_t d = 0; d + 1 < q_offsets.size(); ++d)
    TORCH_CHECK(q_offsets[d + 1] - q_offsets[d] <= k_offsets[d + 1] - k_offsets[d], "document ", d,
                ": expected at least as many keys as its ", q_offsets[d + 1] - q_offsets[d],
                " queries, got ", k_offsets[d + 1] - k_offsets[d]);
  return {tokens, keys, heads, kv_heads, head_dim};
}

Attention attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                    double scale) {
  const AttentionSizes n = attention_sizes(q, k, v, q_offsets, k_offsets);
  const at::ScalarType arithmetic = at::toOpMathType(q.scalar_type());
  Attention to{at::empty(q.sizes(), q.options()),
               at::empty({n.heads, n.tokens}, q.options().dtype(arithmetic))};
  const std::vector<Tile> list = tiles(n, q_offsets, k_offsets);
  const int64_t cost = list.empty() ? 1
                                    : 4 * n.head_dim * n.heads * n.tokens * kQueryRows /
                                          static_cast<int64_t>(list.size());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention", [&] {
    const Forward<scalar_t> forward(n, q, k, v, scale, to);
    const int64_t scratch = forward.scratch(std::max(kQueryRows, n.group()));
    at::Tensor all = at::empty({at::get_num_threads(), scratch}, to.lse.options());
    each_block(static_cast<int64_t>(list.size()), cost, [&](int64_t i) {
      forward.attend(list[static_cast<size_t>(i)],
                     all.data_ptr<acc_t<scalar_t>>() + at::get_thread_num() * scratch);
    });
  });
  return to;
}

}  // namespace conclave::ops
