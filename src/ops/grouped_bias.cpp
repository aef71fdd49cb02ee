#include "ops/grouped_bias.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/matmul.h"
#include "ops/matmul_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

struct Sizes {
  int64_t rows, out, experts;
  std::vector<int64_t> ends;  // expert e has rows ends[e] … ends[e + 1)

  int64_t expert_of(int64_t row) const {
    return std::upper_bound(ends.begin(), ends.end(), row) - ends.begin() - 1;
  }
};

Sizes checked_sizes(const at::Tensor& y, const at::Tensor& bias, const at::Tensor& offsets,
                    const at::Tensor& weights) {
  TORCH_CHECK(y.dim() == 2 && bias.dim() == 2,
              "grouped_bias: expected rows [rows, out] and a bias [experts, out], got ", y.sizes(),
              " and ", bias.sizes());
  const int64_t rows = y.size(0), out = y.size(1), experts = bias.size(0);
  CHECK_SHAPE(y, rows, out);
  CHECK_SHAPE(bias, experts, out);
  if (weights.defined()) {
    CHECK_SHAPE(weights, rows);
    CHECK_DTYPE(weights, at::toOpMathType(y.scalar_type()));
  }
  if (y.is_cuda()) return {rows, out, experts, {}};  // offsets stay on the device
  return {rows, out, experts, expert_ends(offsets, experts, rows)};
}

}  // namespace

void grouped_bias_(at::Tensor y, const at::Tensor& bias, const at::Tensor& offsets,
                   const at::Tensor& weights) {
  const Sizes s = checked_sizes(y, bias, offsets, weights);
  CHECK_DTYPE(bias, y.scalar_type());
  if constexpr (kCudaBuild)
    if (y.is_cuda()) return cuda::grouped_bias_(y, bias, offsets, weights);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, y.scalar_type(), "grouped_bias_", [&] {
    using A = acc_t<scalar_t>;
    scalar_t* to = y.data_ptr<scalar_t>();
    const scalar_t* b = bias.const_data_ptr<scalar_t>();
    const A* w = weights.defined() ? weights.const_data_ptr<A>() : nullptr;
    each_block(s.rows, 2 * s.out, [&](int64_t r) {
      sweep<A>(
          s.out, [&, row = to + r * s.out, of = b + s.expert_of(r) * s.out](int64_t i, auto lanes) {
            store(row + i, load(row + i, lanes) + load(of + i, lanes) * (w ? w[r] : A(1)), lanes);
          });
    });
  });
}

at::Tensor grouped_bias_backward_weights(const at::Tensor& dy, const at::Tensor& bias,
                                         const at::Tensor& offsets) {
  const Sizes s = checked_sizes(dy, bias, offsets, {});
  CHECK_DTYPE(bias, dy.scalar_type());
  if constexpr (kCudaBuild)
    if (dy.is_cuda()) return cuda::grouped_bias_backward_weights(dy, bias, offsets);
  at::Tensor dweights = at::empty({s.rows}, dy.options().dtype(at::toOpMathType(dy.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND(
      at::kBFloat16, dy.scalar_type(), "grouped_bias_backward_weights", [&] {
        using A = acc_t<scalar_t>;
        const scalar_t *from = dy.const_data_ptr<scalar_t>(), *b = bias.const_data_ptr<scalar_t>();
        A* to = dweights.data_ptr<A>();
        each_block(s.rows, 2 * s.out, [&](int64_t r) {
          const scalar_t *row = from + r * s.out, *of = b + s.expert_of(r) * s.out;
          to[r] = sum_over<A>(s.out, [&](int64_t i, auto lanes) {
            return load(row + i, lanes) * load(of + i, lanes);
          });
        });
      });
  return dweights;
}

void grouped_bias_backward_(at::Tensor dbias, const at::Tensor& dy, const at::Tensor& offsets,
                            const at::Tensor& weights) {
  const Sizes s = checked_sizes(dy, dbias, offsets, weights);
  if constexpr (kCudaBuild)
    if (dy.is_cuda()) return cuda::grouped_bias_backward_(dbias, dy, offsets, weights);
  CHECK_DTYPE(dbias, at::toOpMathType(dy.scalar_type()));
  constexpr int64_t kColumns = 64;
  const int64_t blocks = (s.out + kColumns - 1) / kColumns;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dy.scalar_type(), "grouped_bias_backward_", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* from = dy.const_data_ptr<scalar_t>();
    const A* w = weights.defined() ? weights.const_data_ptr<A>() : nullptr;
    A* to = dbias.data_ptr<A>();
    const int64_t rows = s.rows / std::max<int64_t>(s.experts, 1);
    each_block(s.experts * blocks, rows * kColumns, [&](int64_t block) {
      const int64_t e = block / blocks, begin = block % blocks * kColumns,
                    end = std::min(s.out, begin + kColumns);
      for (int64_t r = s.ends[e]; r < s.ends[e + 1]; ++r)
        for (int64_t c = begin; c < end; ++c)
          to[e * s.out + c] += (w ? w[r] : A(1)) * static_cast<A>(from[r * s.out + c]);
    });
  });
}

}  // namespace conclave::ops
