#include "ops/grouped_mlp_cuda.h"

#include <ATen/ops/empty.h>

#include "kernels/grouped_gemm.h"
#include "kernels/grouped_weight.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

const void* bytes_of(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

// Runs the kernel where it does this; act may be undefined.
bool run_grouped_gemm(kernels::GroupedForm form, const at::Tensor& x, const at::Tensor& index,
                      const at::Tensor& w, const at::Tensor& bias, const at::Tensor& weights,
                      const at::Tensor& offsets, at::Tensor& out, at::Tensor act) {
  kernels::GroupedGemm p;
  p.x = x.const_data_ptr();
  p.index = index.defined() ? index.const_data_ptr<int32_t>() : nullptr;
  p.offsets = offsets.const_data_ptr<int32_t>();
  p.weights = weights.defined() ? weights.const_data_ptr<float>() : nullptr;
  p.w = w.const_data_ptr();
  p.bias = bytes_of(bias);
  p.out = out.data_ptr();
  p.act = act.defined() ? act.data_ptr() : nullptr;
  p.rows = out.size(0);
  p.depth = x.size(1);
  p.columns = out.size(1);
  p.experts = static_cast<int>(w.size(0));
  const OnDevice stream(
      x, {{"index", index}, {"w", w}, {"bias", bias}, {"weights", weights}, {"offsets", offsets}});
  if (!kernels::grouped_gemm_supported(p, form)) return false;
  if (p.rows > 0) kernels::grouped_gemm(p, form, stream);
  return true;
}

}  // namespace

std::optional<GroupedUp> fused_grouped_up(const at::Tensor& x, const at::Tensor& index,
                                          const at::Tensor& w, const at::Tensor& bias,
                                          const at::Tensor& weights, const at::Tensor& offsets,
                                          Activation activation) {
  if (x.scalar_type() != at::kBFloat16) return std::nullopt;
  const int64_t rows = index.defined() ? index.size(0) : x.size(0);
  GroupedUp out{at::empty({rows, w.size(1)}, x.options()),
                at::empty({rows, w.size(1) / 2}, x.options())};
  const auto form = activation == Activation::clamped_swiglu ? kernels::GroupedForm::interleaved
                                                             : kernels::GroupedForm::halves;
  if (!run_grouped_gemm(form, x, index, w, bias, weights, offsets, out.gate_up, out.act))
    return std::nullopt;
  return out;
}

std::optional<at::Tensor> fused_grouped_linear(const at::Tensor& x, const at::Tensor& w,
                                               const at::Tensor& offsets, const at::Tensor& bias,
                                               const at::Tensor& weights) {
  if (x.scalar_type() != at::kBFloat16) return std::nullopt;
  at::Tensor out = at::empty({x.size(0), w.size(1)}, x.options());
  if (!run_grouped_gemm(kernels::GroupedForm::product, x, {}, w, bias, weights, offsets, out, {}))
    return std::nullopt;
  return out;
}

std::optional<at::Tensor> fused_grouped_linear_backward_input(const at::Tensor& dy,
                                                              const at::Tensor& w,
                                                              const at::Tensor& offsets) {
  if (dy.scalar_type() != at::kBFloat16) return std::nullopt;
  at::Tensor dx = at::empty({dy.size(0), w.size(2)}, dy.options());
  if (!run_grouped_gemm(kernels::GroupedForm::transposed, dy, {}, w, {}, {}, offsets, dx, {}))
    return std::nullopt;
  return dx;
}

bool fused_grouped_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x,
                                           const at::Tensor& offsets) {
  if (x.scalar_type() != at::kBFloat16 || !dw.is_contiguous()) return false;
  kernels::GroupedWeight p;
  p.dy = dy.const_data_ptr();
  p.x = x.const_data_ptr();
  p.offsets = offsets.const_data_ptr<int32_t>();
  p.dw = dw.data_ptr();
  p.fp32 = dw.scalar_type() == at::kFloat;
  p.rows = x.size(0);
  p.out = dw.size(1);
  p.in = dw.size(2);
  p.experts = static_cast<int>(dw.size(0));
  const OnDevice stream(x, {{"dy", dy}, {"dw", dw}, {"offsets", offsets}});
  if (!kernels::grouped_weight_supported(p)) return false;
  if (p.rows > 0) kernels::grouped_weight(p, stream);
  return true;
}

}  // namespace conclave::ops::cuda
