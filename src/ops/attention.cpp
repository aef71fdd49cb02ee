#include "ops/attention.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/attention_cuda.h"
#include "ops/attention_tiles.h"
#include "ops/blocks.h"
#include "ops/device.h"
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
  int64_t head, head_step;
  int64_t key;              // the document's first key
  int64_t seen, seen_step;  // keys up to the first row's own, and how many more the next row's has
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
        list.push_back(
            {n.group(), q * n.heads + h, 1, h * n.tokens + q, n.tokens, h, 1, key, keys, 0});
      continue;
    }
    for (int64_t h = 0; h < n.heads; ++h)
      for (int64_t r = 0; r < queries; r += kQueryRows)
        list.push_back({std::min(kQueryRows, queries - r), (q + r) * n.heads + h, n.heads,
                        h * n.tokens + q + r, 1, h, 0, key, keys - queries + r + 1, 1});
  }
  return list;
}

template <class T>
class Forward {
  using A = acc_t<T>;
  static constexpr bool kConverts = !std::is_same_v<T, A>;

 public:
  Forward(const AttentionSizes& n, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
          double scale, const at::Tensor& sinks, Attention& to)
      : n_(n),
        scale_(static_cast<A>(scale)),
        sinks_(sinks.defined() ? sinks.const_data_ptr<A>() : nullptr),
        q_(q.const_data_ptr<T>()),
        k_(k.const_data_ptr<T>()),
        v_(v.const_data_ptr<T>()),
        out_(to.out.data_ptr<T>()),
        lse_(to.lse.data_ptr<A>()) {}

  // Elements of A that attend() needs, with tiles of at most `rows` rows.
  int64_t scratch(int64_t rows) const {
    auto matrix = [](int64_t rows, int64_t width) { return Parts<A>::rounded(rows * width); };
    const int64_t converted = kConverts
                                  ? matrix(rows, n_.head_dim) + matrix(kKeyColumns, n_.head_dim) +
                                        matrix(kKeyColumns, n_.v_dim)
                                  : 0;
    return rows * kScoresLd + matrix(rows, n_.v_dim) + 2 * matrix(rows, 1) + converted;
  }

  void attend(const Tile& t, A* scratch) const {
    Parts<A> parts(scratch);
    A* scores = parts.take(t.rows * kScoresLd);
    A* sum = parts.take(t.rows * n_.v_dim);  // Σ p · v so far
    A* largest = parts.take(t.rows);
    A* total = parts.take(t.rows);  // Σ p so far
    A* q_scratch = kConverts ? parts.take(t.rows * n_.head_dim) : nullptr;
    A* k_scratch = kConverts ? parts.take(kKeyColumns * n_.head_dim) : nullptr;
    A* v_scratch = kConverts ? parts.take(kKeyColumns * n_.v_dim) : nullptr;
    const int64_t d = n_.head_dim, vd = n_.v_dim, kv_head = t.head / n_.group(),
                  keys = t.seen + t.seen_step * (t.rows - 1), begin = n_.window_begin(t.seen);
    const Rows<A> q = as_arithmetic(q_ + t.q * d, t.rows, d, t.q_step * d, q_scratch);
    // Windows of a tile begin fewer than kKeyColumns keys apart, so every row sees a key of the
    // first block and `largest` is finite after it.
    static_assert(kQueryRows <= kKeyColumns);
    for (int64_t first = begin; first < keys; first += kKeyColumns) {
      const int64_t columns = std::min(kKeyColumns, keys - first),
                    at = (t.key + first) * n_.kv_heads + kv_head;
      const Rows<A> k = as_arithmetic(k_ + at * d, columns, d, n_.kv_heads * d, k_scratch),
                    v = as_arithmetic(v_ + at * vd, columns, vd, n_.kv_heads * vd, v_scratch);
      gemm(false, true, t.rows, columns, d, scale_, q.data, q.ld, k.data, k.ld, A(0), scores,
           kScoresLd);
      for (int64_t r = 0; r < t.rows; ++r) {
        A* row = scores + r * kScoresLd;
        const Columns seen = visible(n_, t.seen + t.seen_step * r, first, columns);
        clear_outside(row, seen, columns);
        const A before = first == begin ? -std::numeric_limits<A>::infinity() : largest[r];
        largest[r] = std::max(before, row_max(row + seen.begin, seen.size));
        const A p = row_exp(row + seen.begin, seen.size, largest[r]);
        if (first == begin) {
          total[r] = p;
          continue;
        }
        const A shrink = std::exp(before - largest[r]);
        total[r] = total[r] * shrink + p;
        A* o = sum + r * vd;
        sweep<A>(vd,
                 [&](int64_t i, auto lanes) { store(o + i, load(o + i, lanes) * shrink, lanes); });
      }
      gemm(false, false, t.rows, vd, columns, A(1), scores, kScoresLd, v.data, v.ld,
           A(first > begin), sum, vd);
    }
    for (int64_t r = 0; r < t.rows; ++r) finish(t, r, sum + r * vd, largest[r], total[r]);
  }

 private:
  // Row r with its sums of e^(score − largest): the sink joins the denominator.
  void finish(const Tile& t, int64_t r, const A* sum, A largest, A total) const {
    A most = largest, shrink = 1;
    if (sinks_) {
      const A sink = sinks_[t.head + r * t.head_step];
      most = std::max(largest, sink);
      shrink = std::exp(largest - most);
      total = total * shrink + std::exp(sink - most);
    }
    T* out = out_ + (t.q + r * t.q_step) * n_.v_dim;
    sweep<A>(n_.v_dim, [&, factor = shrink / total](int64_t i, auto lanes) {
      store(out + i, load(sum + i, lanes) * factor, lanes);
    });
    lse_[t.lse + r * t.lse_step] = most + std::log(total);
  }

  AttentionSizes n_;
  A scale_;
  const A* sinks_;
  const T *q_, *k_, *v_;
  T* out_;
  A* lse_;
};

}  // namespace

AttentionSizes attention_sizes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               std::span<const int64_t> q_offsets,
                               std::span<const int64_t> k_offsets,
                               const AttentionOptions& options) {
  TORCH_CHECK(q.dim() == 3, "q: expected [tokens, heads, head_dim], got ", q.sizes());
  TORCH_CHECK(k.dim() == 3, "k: expected [keys, kv_heads, head_dim], got ", k.sizes());
  TORCH_CHECK(v.dim() == 3, "v: expected [keys, kv_heads, v_dim], got ", v.sizes());
  const int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2), keys = k.size(0),
                kv_heads = k.size(1), v_dim = v.size(2);
  CHECK_SHAPE(q, tokens, heads, head_dim);
  CHECK_SHAPE(k, keys, kv_heads, head_dim);
  CHECK_SHAPE(v, keys, kv_heads, v_dim);
  CHECK_DTYPE(k, q.scalar_type());
  CHECK_DTYPE(v, q.scalar_type());
  TORCH_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0,
              "heads: expected a multiple of kv_heads = ", kv_heads, ", got ", heads);
  TORCH_CHECK(head_dim > 0 && v_dim > 0, "head_dim, v_dim: expected at least 1, got ", head_dim,
              ", ", v_dim);
  TORCH_CHECK(options.window >= 0, "window: expected at least 1, or 0 for none, got ",
              options.window);
  if (const at::Tensor& sinks = options.sinks; sinks.defined()) {
    CHECK_SHAPE(sinks, heads);
    CHECK_DTYPE(sinks, q.scalar_type());
  }
  check_offsets(q_offsets, "q_offsets", tokens);
  check_offsets(k_offsets, "k_offsets", keys);
  TORCH_CHECK(q_offsets.size() == k_offsets.size(), "k_offsets: expected ", q_offsets.size(),
              " numbers as in q_offsets, got ", k_offsets.size());
  for (size_t d = 0; d + 1 < q_offsets.size(); ++d)
    TORCH_CHECK(q_offsets[d + 1] - q_offsets[d] <= k_offsets[d + 1] - k_offsets[d], "document ", d,
                ": expected at least as many keys as its ", q_offsets[d + 1] - q_offsets[d],
                " queries, got ", k_offsets[d + 1] - k_offsets[d]);
  return {tokens, keys, heads, kv_heads, head_dim, v_dim, options.window};
}

at::Tensor wide_sinks(const AttentionOptions& options, at::ScalarType arithmetic) {
  return options.sinks.defined() ? options.sinks.to(arithmetic) : at::Tensor();
}

Attention attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                    const AttentionOptions& options) {
  const AttentionSizes n = attention_sizes(q, k, v, q_offsets, k_offsets, options);
  if constexpr (kCudaBuild)
    if (q.is_cuda()) return cuda::attention(q, k, v, q_offsets, k_offsets, options);
  const at::ScalarType arithmetic = at::toOpMathType(q.scalar_type());
  Attention to{at::empty({n.tokens, n.heads, n.v_dim}, q.options()),
               at::empty({n.heads, n.tokens}, q.options().dtype(arithmetic))};
  const at::Tensor sinks = wide_sinks(options, arithmetic);
  const std::vector<Tile> list = tiles(n, q_offsets, k_offsets);
  const int64_t cost = list.empty() ? 1
                                    : 4 * n.head_dim * n.heads * n.tokens * kQueryRows /
                                          static_cast<int64_t>(list.size());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, q.scalar_type(), "attention", [&] {
    const Forward<scalar_t> forward(n, q, k, v, options.scale, sinks, to);
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
