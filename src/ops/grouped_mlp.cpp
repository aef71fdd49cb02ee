#include "ops/grouped_mlp.h"

#include <ATen/OpMathType.h>
#include <ATen/ops/index_select.h>

#include "base/check.h"
#include "ops/device.h"
#include "ops/grouped_bias.h"
#include "ops/grouped_mlp_cuda.h"
#include "ops/matmul.h"

namespace conclave::ops {
namespace {

void check_grouped_up(const at::Tensor& x, const at::Tensor& index, const at::Tensor& w,
                      const at::Tensor& bias, const at::Tensor& weights,
                      const at::Tensor& offsets) {
  TORCH_CHECK(x.dim() == 2 && w.dim() == 3 && w.size(1) % 2 == 0,
              "grouped_up: expected x [tokens, hidden] and w [experts, 2 · ffn, hidden], got ",
              x.sizes(), " and ", w.sizes());
  const int64_t tokens = x.size(0), hidden = x.size(1), experts = w.size(0), both = w.size(1),
                rows = index.defined() ? index.numel() : tokens;
  CHECK_SHAPE(x, tokens, hidden);
  CHECK_SHAPE(w, experts, both, hidden);
  CHECK_DTYPE(w, x.scalar_type());
  CHECK_SHAPE(offsets, experts + 1);
  CHECK_DTYPE(offsets, x.is_cuda() ? at::kInt : at::kLong);
  if (index.defined()) {
    CHECK_SHAPE(index, rows);
    CHECK_DTYPE(index, at::kInt);
  }
  if (bias.defined()) {
    CHECK_SHAPE(bias, experts, both);
    CHECK_DTYPE(bias, x.scalar_type());
  }
  if (weights.defined()) {
    CHECK_SHAPE(weights, rows);
    CHECK_DTYPE(weights, at::toOpMathType(x.scalar_type()));
  }
}

}  // namespace

GroupedUp grouped_up(const at::Tensor& x, const at::Tensor& index, const at::Tensor& w,
                     const at::Tensor& bias, const at::Tensor& weights, const at::Tensor& offsets,
                     Activation activation, GroupedKernel kernel) {
  check_grouped_up(x, index, w, bias, weights, offsets);
  if constexpr (kCudaBuild)
    if (x.is_cuda() && kernel != GroupedKernel::aten)
      if (auto made = cuda::fused_grouped_up(x, index, w, bias, weights, offsets, activation))
        return *made;
  TORCH_CHECK(kernel != GroupedKernel::fused,
              "grouped_up: expected bf16 on Hopper, hidden a multiple of 64 from 640 on, ffn of "
              "64, and a bias "
              "only with clamped_swiglu for the fused kernel, got ",
              x.scalar_type(), " on ", x.device(), ", w ", w.sizes(), "; choose automatic");
  at::Tensor gate_up =
      grouped_linear(index.defined() ? at::index_select(x, 0, index) : x, w, offsets);
  if (bias.defined()) grouped_bias_(gate_up, bias, offsets, at::Tensor());
  return {gate_up, swiglu(gate_up, weights, activation)};
}

}  // namespace conclave::ops
