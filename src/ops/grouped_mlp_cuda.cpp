#include "ops/grouped_mlp_cuda.h"

#include <ATen/ops/empty.h>

#include "kernels/grouped_gemm.h"
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
  p.columns = w.size(1);
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

}  // namespace conclave::ops::cuda
