#include "ops/swiglu_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "kernels/swiglu.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

kernels::SwigluSizes sizes(const at::Tensor& gate_up, Activation activation) {
  return {gate_up.size(0), gate_up.size(1) / 2, activation == Activation::clamped_swiglu};
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& weights, Activation activation) {
  const OnDevice stream(gate_up, {{"weights", weights}});
  const kernels::SwigluSizes s = sizes(gate_up, activation);
  at::Tensor y = at::empty({s.rows, s.ffn}, gate_up.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, gate_up.scalar_type(), "swiglu", [&] {
    kernels::swiglu(out<scalar_t>(y), in<scalar_t>(gate_up), in<wide_t<scalar_t>>(weights), s,
                    stream);
  });
  return y;
}

SwigluGrad swiglu_backward(const at::Tensor& dy, const at::Tensor& gate_up,
                           const at::Tensor& weights, Activation activation) {
  const OnDevice stream(gate_up, {{"dy", dy}, {"weights", weights}});
  SwigluGrad grad{at::empty_like(gate_up), weights.defined() ? at::empty_like(weights) : weights};
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, gate_up.scalar_type(), "swiglu_backward", [&] {
    kernels::swiglu_backward(out<scalar_t>(grad.dgate_up), out<wide_t<scalar_t>>(grad.dweights),
                             in<scalar_t>(dy), in<scalar_t>(gate_up), in<wide_t<scalar_t>>(weights),
                             sizes(gate_up, activation), stream);
  });
  return grad;
}

}  // namespace conclave::ops::cuda
