#include "ops/grouped_mlp_cuda.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/grouped_gemm_swiglu.h"

namespace conclave::ops::cuda {
namespace {

template <class T>
const T* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

}  // namespace

std::optional<GroupedUp> fused_grouped_up(const at::Tensor& x, const at::Tensor& index,
                                          const at::Tensor& w, const at::Tensor& bias,
                                          const at::Tensor& weights, const at::Tensor& offsets,
                                          Activation activation) {
  const bool clamped = activation == Activation::clamped_swiglu;
  if (x.scalar_type() != at::kBFloat16 || (bias.defined() && !clamped)) return std::nullopt;
  const int64_t rows = index.defined() ? index.size(0) : x.size(0), ffn = w.size(1) / 2;
  GroupedUp out{at::empty({rows, 2 * ffn}, x.options()), at::empty({rows, ffn}, x.options())};
  kernels::GroupedSwiglu p;
  p.x = x.const_data_ptr();
  p.index = data_or_null<int32_t>(index);
  p.offsets = offsets.const_data_ptr<int32_t>();
  p.weights = data_or_null<float>(weights);
  p.w = w.const_data_ptr();
  p.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
  p.gate_up = out.gate_up.data_ptr();
  p.act = out.act.data_ptr();
  p.rows = rows;
  p.hidden = x.size(1);
  p.ffn = ffn;
  p.experts = static_cast<int>(w.size(0));
  if (!kernels::grouped_swiglu_supported(p)) return std::nullopt;
  if (rows == 0) return out;
  kernels::grouped_swiglu(p, clamped ? kernels::GatedForm::interleaved : kernels::GatedForm::halves,
                          c10::cuda::getCurrentCUDAStream());
  return out;
}

}  // namespace conclave::ops::cuda
