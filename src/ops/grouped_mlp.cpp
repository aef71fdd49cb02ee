#include "ops/grouped_mlp.h"

#include <ATen/OpMathType.h>
#include <ATen/ops/index_select.h>

#include "base/check.h"
#include "ops/device.h"
#include "ops/grouped_mlp_cuda.h"
#include "ops/matmul.h"
#include "ops/matmul_cuda.h"

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
  const bool fused = kernel == GroupedKernel::fused;
  if constexpr (kCudaBuild)
    if (x.is_cuda() && kernel != GroupedKernel::aten)
      if (auto made = cuda::fused_grouped_up(x, index, w, bias, weights, offsets, activation))
        return *made;
  TORCH_CHECK(
      !fused,
      "grouped_up: expected bf16 on Hopper, ffn a multiple of 64, hidden one from 640 on "
      "(clamped_swiglu: 896), and a bias only with clamped_swiglu for the fused kernel, got ",
      x.scalar_type(), " on ", x.device(), ", w ", w.sizes(), "; choose automatic");
  const at::Tensor rows = index.defined() ? at::index_select(x, 0, index) : x;
  at::Tensor gate_up;
  if constexpr (kCudaBuild)
    if (x.is_cuda() && kernel == GroupedKernel::aten)
      gate_up = cuda::aten_grouped_linear(rows, w, offsets, bias, {});
  if (!gate_up.defined()) gate_up = grouped_linear(rows, w, offsets, bias);
  return {gate_up, swiglu(gate_up, weights, activation)};
}

}  // namespace conclave::ops
