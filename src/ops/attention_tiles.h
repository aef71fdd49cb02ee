// What attention's forward and backward share: how work is cut, and how slices of heads become
// matrices. Private to ops/.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

#include "ops/attention.h"
#include "ops/simd.h"

namespace conclave::ops {

constexpr int64_t kQueryRows = 64;  // queries of a tile
// Keys at once; with more, the forward's softmax is rescaled as it goes.
constexpr int64_t kKeyColumns = 512;
// Rows of scores stay 64-byte aligned and do not fall on one cache set.
constexpr int64_t kScoresLd = kKeyColumns + 16;

struct AttentionSizes {
  int64_t tokens, keys, heads, kv_heads, head_dim, v_dim;
  int64_t window;  // 0: none
  int64_t group() const { return heads / kv_heads; }
  // Of the `seen` keys up to a query's own, the first that its window holds.
  int64_t window_begin(int64_t seen) const {
    return window > 0 ? std::max<int64_t>(seen - window, 0) : 0;
  }
};

// Throws unless q, k, v, the offsets and the options are what ops/attention.h asks for.
AttentionSizes attention_sizes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               std::span<const int64_t> q_offsets,
                               std::span<const int64_t> k_offsets, const AttentionOptions& options);

// The sinks in the type of arithmetic; undefined where there are none.
at::Tensor wide_sinks(const AttentionOptions& options, at::ScalarType arithmetic);

// The columns of a block that a row sees. `seen`: keys up to the row's own, counted from the
// document's first, as is `first`, the block's first column.
struct Columns {
  int64_t begin, size;
};
inline Columns visible(const AttentionSizes& n, int64_t seen, int64_t first, int64_t columns) {
  const int64_t begin = std::clamp<int64_t>(n.window_begin(seen) - first, 0, columns);
  return {begin, std::clamp<int64_t>(seen - first, begin, columns) - begin};
}
template <class A>
void clear_outside(A* row, Columns seen, int64_t columns) {
  std::fill(row, row + seen.begin, A(0));
  std::fill(row + seen.begin + seen.size, row + columns, A(0));
}

// A matrix in rows of `ld` elements.
template <class A>
struct Rows {
  const A* data;
  int64_t ld;
};

// `rows` rows of `width` elements, `ld` apart, for arithmetic in A: in place if they are stored so,
// else converted into `scratch`.
template <class T, class A>
Rows<A> as_arithmetic(const T* from, int64_t rows, int64_t width, int64_t ld, A* scratch) {
  if constexpr (std::is_same_v<T, A>) {
    return {from, ld};
  } else {
    for (int64_t r = 0; r < rows; ++r)
      sweep<A>(width, [&](int64_t i, auto lanes) {
        store(scratch + r * width + i, load(from + r * ld + i, lanes), lanes);
      });
    return {scratch, width};
  }
}

// Scratch of one thread, cut into 64-byte aligned parts.
template <class A>
class Parts {
 public:
  explicit Parts(A* at) : at_(at) {}
  A* take(int64_t n) {
    A* part = at_;
    at_ += rounded(n);
    return part;
  }
  static int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; }

 private:
  A* at_;
};

}  // namespace conclave::ops
