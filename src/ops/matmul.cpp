#include "ops/matmul.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "ops/device.h"
#include "ops/gemm.h"
#include "ops/grouped_bias.h"
#include "ops/matmul_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

// C ← op(A) · op(B), or C += it; see gemm. S is the operands' type; Out is S, or the type sums are
// taken in.
template <class S, class Out>
struct Product {
  bool transa, transb, add;
  int64_t m, n, k;
  const S* a;
  int64_t lda;
  const S* b;
  int64_t ldb;
  Out* c;
  int64_t ldc;
};

// A dimension of n is cut into equal blocks of at most `most`, multiples of 16.
int64_t block_size(int64_t n, int64_t most) {
  const int64_t blocks = (n + most - 1) / most;
  return (n + blocks * 16 - 1) / (blocks * 16) * 16;
}

template <class S, class Out>
struct Block {
  const Product<S, Out>* of;
  int64_t row, column, rows, columns;

  void run() const {
    using A = acc_t<S>;
    const Product<S, Out>& p = *of;
    const S* a = p.a + row * (p.transa ? 1 : p.lda);
    const S* b = p.b + column * (p.transb ? p.ldb : 1);
    Out* c = p.c + row * p.ldc + column;
    if constexpr (std::is_same_v<Out, A>) {
      gemm(p.transa, p.transb, rows, columns, p.k, A(1), a, p.lda, b, p.ldb, A(p.add), c, p.ldc);
    } else {  // sums are finished before the one rounding
      thread_local std::vector<A> sums;
      sums.resize(rows * columns);
      gemm(p.transa, p.transb, rows, columns, p.k, A(1), a, p.lda, b, p.ldb, A(0), sums.data(),
           columns);
      for (int64_t r = 0; r < rows; ++r)
        sweep<A>(columns, [&, y = c + r * p.ldc, x = sums.data() + r * columns](
                              int64_t i, auto lanes) { store(y + i, load(x + i, lanes), lanes); });
    }
  }
};

template <class S, class Out>
std::vector<Block<S, Out>> cut(const std::vector<Product<S, Out>>& products, int64_t most_rows,
                               int64_t most_columns) {
  std::vector<Block<S, Out>> blocks;
  for (const auto& p : products) {
    if (p.m == 0 || p.n == 0 || (p.k == 0 && p.add)) continue;
    const int64_t rows = block_size(p.m, most_rows), columns = block_size(p.n, most_columns);
    for (int64_t column = 0; column < p.n; column += columns)
      for (int64_t row = 0; row < p.m; row += rows)
        blocks.push_back(
            {&p, row, column, std::min(rows, p.m - row), std::min(columns, p.n - column)});
  }
  return blocks;
}

// Experts differ in size, so whoever is free takes the next block. Which thread runs a block does
// not change its bits.
template <class S, class Out>
void run(const std::vector<Product<S, Out>>& products) {
  // Large blocks read their operands less often; smaller ones where there would be few to share.
  constexpr size_t kEnough = 8;
  std::vector<Block<S, Out>> blocks = cut(products, 256, 512);
  if (blocks.size() < kEnough) blocks = cut(products, 128, 512);
  if (blocks.size() < kEnough) blocks = cut(products, 128, 256);
  const int64_t n = static_cast<int64_t>(blocks.size());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(n, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1)) < n;) blocks[i].run();
  });
}

// y = x · wᵀ (forward) or x · w (backward), expert by expert.
at::Tensor rows_times_weights(const at::Tensor& x, const at::Tensor& w, bool transposed,
                              int64_t experts, int64_t in, int64_t out,
                              const std::vector<int64_t>& ends) {
  at::Tensor y = at::empty({x.size(0), out}, x.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "linear", [&] {
    const scalar_t *from = x.const_data_ptr<scalar_t>(), *weights = w.const_data_ptr<scalar_t>();
    scalar_t* to = y.data_ptr<scalar_t>();
    std::vector<Product<scalar_t, scalar_t>> products;
    for (int64_t e = 0; e < experts; ++e)
      products.push_back({false, transposed, false, ends[e + 1] - ends[e], out, in,
                          from + ends[e] * in, in, weights + e * in * out, transposed ? in : out,
                          to + ends[e] * out, out});
    run(products);
  });
  return y;
}

void add_weight_gradients(at::Tensor& dw, const at::Tensor& dy, const at::Tensor& x,
                          int64_t experts, int64_t out, int64_t in,
                          const std::vector<int64_t>& ends) {
  CHECK_DTYPE(dy, x.scalar_type());
  CHECK_DTYPE(dw, at::toOpMathType(x.scalar_type()));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "linear_backward_weight_", [&] {
    const scalar_t *left = dy.const_data_ptr<scalar_t>(), *right = x.const_data_ptr<scalar_t>();
    acc_t<scalar_t>* to = dw.data_ptr<acc_t<scalar_t>>();
    std::vector<Product<scalar_t, acc_t<scalar_t>>> products;
    for (int64_t e = 0; e < experts; ++e)
      products.push_back({true, false, true, out, in, ends[e + 1] - ends[e], left + ends[e] * out,
                          out, right + ends[e] * in, in, to + e * out * in, in});
    run(products);
  });
}

at::Tensor widened(const at::Tensor& t) { return t.to(at::toOpMathType(t.scalar_type())); }

}  // namespace

std::vector<int64_t> expert_ends(const at::Tensor& offsets, int64_t experts, int64_t rows) {
  CHECK_SHAPE(offsets, experts + 1);
  CHECK_DTYPE(offsets, at::kLong);
  TORCH_CHECK(offsets.is_cpu(), "offsets: expected a tensor on the CPU, got one on ",
              offsets.device());
  const int64_t* o = offsets.const_data_ptr<int64_t>();
  for (int64_t e = 0; e < experts; ++e)
    TORCH_CHECK(o[e] <= o[e + 1], "offsets: expected ascending values, got ", o[e], " before ",
                o[e + 1], " at expert ", e);
  TORCH_CHECK(o[0] == 0 && o[experts] == rows, "offsets: expected 0 … ", rows, ", got ", o[0],
              " … ", o[experts]);
  return {o, o + experts + 1};
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  TORCH_CHECK(x.dim() == 2 && w.dim() == 2, "linear: expected x [tokens, in] and w [out, in], got ",
              x.sizes(), " and ", w.sizes());
  const int64_t tokens = x.size(0), in = x.size(1), out = w.size(0);
  CHECK_SHAPE(x, tokens, in);
  CHECK_SHAPE(w, out, in);
  CHECK_DTYPE(w, x.scalar_type());
  if (bias.defined()) {
    CHECK_SHAPE(bias, out);
    CHECK_DTYPE(bias, x.scalar_type());
  }
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::linear(x, w, bias);
  at::Tensor y = rows_times_weights(x, w, true, 1, in, out, {0, tokens});
  return bias.defined() ? y.add_(bias) : y;
}

at::Tensor linear_backward_input(const at::Tensor& dy, const at::Tensor& w) {
  TORCH_CHECK(dy.dim() == 2 && w.dim() == 2,
              "linear_backward_input: expected dy [tokens, out] and w [out, in], got ", dy.sizes(),
              " and ", w.sizes());
  const int64_t tokens = dy.size(0), out = dy.size(1), in = w.size(1);
  CHECK_SHAPE(dy, tokens, out);
  CHECK_SHAPE(w, out, in);
  CHECK_DTYPE(w, dy.scalar_type());
  if constexpr (kCudaBuild)
    if (dy.is_cuda()) return cuda::linear_backward_input(dy, w);
  return rows_times_weights(dy, w, false, 1, out, in, {0, tokens});
}

void linear_backward_input_(at::Tensor dx, const at::Tensor& dy, const at::Tensor& w) {
  const int64_t tokens = dy.size(0), in = w.size(1);
  CHECK_SHAPE(dx, tokens, in);
  CHECK_DTYPE(dx, dy.scalar_type());
  if constexpr (kCudaBuild)
    if (dy.is_cuda()) return cuda::linear_backward_input_(dx, dy, w);
  dx.add_(linear_backward_input(dy, w));
}

void linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x) {
  TORCH_CHECK(dy.dim() == 2 && x.dim() == 2,
              "linear_backward_weight_: expected dy [tokens, out] and x [tokens, in], got ",
              dy.sizes(), " and ", x.sizes());
  const int64_t tokens = x.size(0), out = dy.size(1), in = x.size(1);
  CHECK_SHAPE(dy, tokens, out);
  CHECK_SHAPE(x, tokens, in);
  CHECK_SHAPE(dw, out, in);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::linear_backward_weight_(dw, dy, x);
  add_weight_gradients(dw, dy, x, 1, out, in, {0, tokens});
}

at::Tensor wide_linear(const at::Tensor& x, const at::Tensor& w) {
  if constexpr (kCudaBuild)
    if (x.is_cuda() && x.scalar_type() == at::kBFloat16) return cuda::wide_linear(x, w);
  return linear(widened(x), widened(w));
}

at::Tensor wide_linear_backward_input(const at::Tensor& dy, const at::Tensor& w) {
  if constexpr (kCudaBuild)
    if (dy.is_cuda() && w.scalar_type() == at::kBFloat16)
      return cuda::wide_linear_backward_input(dy, w);
  return linear_backward_input(dy, widened(w)).to(w.scalar_type());
}

void wide_linear_backward_input_(at::Tensor dx, const at::Tensor& dy, const at::Tensor& w) {
  if constexpr (kCudaBuild)
    if (dy.is_cuda() && w.scalar_type() == at::kBFloat16)
      return cuda::wide_linear_backward_input_(dx, dy, w);
  dx.add_(wide_linear_backward_input(dy, w));
}

void wide_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x) {
  if constexpr (kCudaBuild)
    if (dy.is_cuda() && x.scalar_type() == at::kBFloat16)
      return cuda::wide_linear_backward_weight_(dw, dy, x);
  linear_backward_weight_(dw, dy, widened(x));
}

at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& offsets,
                          const at::Tensor& bias, const at::Tensor& bias_weights) {
  TORCH_CHECK(x.dim() == 2 && w.dim() == 3,
              "grouped_linear: expected x [rows, in] and w [experts, out, in], got ", x.sizes(),
              " and ", w.sizes());
  const int64_t rows = x.size(0), in = x.size(1), experts = w.size(0), out = w.size(1);
  CHECK_SHAPE(x, rows, in);
  CHECK_SHAPE(w, experts, out, in);
  CHECK_DTYPE(w, x.scalar_type());
  if constexpr (kCudaBuild)
    if (x.is_cuda()) {
      if (bias.defined()) CHECK_SHAPE(bias, experts, out), CHECK_DTYPE(bias, x.scalar_type());
      if (bias_weights.defined())
        CHECK_SHAPE(bias_weights, rows),
            CHECK_DTYPE(bias_weights, at::toOpMathType(x.scalar_type()));
      return cuda::grouped_linear(x, w, offsets, bias, bias_weights);
    }
  at::Tensor y =
      rows_times_weights(x, w, true, experts, in, out, expert_ends(offsets, experts, rows));
  if (bias.defined()) grouped_bias_(y, bias, offsets, bias_weights);
  return y;
}

at::Tensor grouped_linear_backward_input(const at::Tensor& dy, const at::Tensor& w,
                                         const at::Tensor& offsets) {
  TORCH_CHECK(
      dy.dim() == 2 && w.dim() == 3,
      "grouped_linear_backward_input: expected dy [rows, out] and w [experts, out, in], got ",
      dy.sizes(), " and ", w.sizes());
  const int64_t rows = dy.size(0), experts = w.size(0), out = w.size(1), in = w.size(2);
  CHECK_SHAPE(dy, rows, out);
  CHECK_SHAPE(w, experts, out, in);
  CHECK_DTYPE(w, dy.scalar_type());
  if constexpr (kCudaBuild)
    if (dy.is_cuda()) return cuda::grouped_linear_backward_input(dy, w, offsets);
  return rows_times_weights(dy, w, false, experts, out, in, expert_ends(offsets, experts, rows));
}

void grouped_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& offsets) {
  TORCH_CHECK(
      dw.dim() == 3 && x.dim() == 2,
      "grouped_linear_backward_weight_: expected dw [experts, out, in] and x [rows, in], got ",
      dw.sizes(), " and ", x.sizes());
  const int64_t rows = x.size(0), experts = dw.size(0), out = dw.size(1), in = dw.size(2);
  CHECK_SHAPE(dw, experts, out, in);
  CHECK_SHAPE(dy, rows, out);
  CHECK_SHAPE(x, rows, in);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::grouped_linear_backward_weight_(dw, dy, x, offsets);
  add_weight_gradients(dw, dy, x, experts, out, in, expert_ends(offsets, experts, rows));
}

}  // namespace conclave::ops
