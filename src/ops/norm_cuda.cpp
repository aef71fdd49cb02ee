#include "ops/norm_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "kernels/rms_norm.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

template <class S>
kernels::RmsNormArgs<kernel_t<S>> args(const at::Tensor& y, const at::Tensor& rstd,
                                       const at::Tensor& x, const at::Tensor& weight) {
  kernels::RmsNormArgs<kernel_t<S>> a{};
  a.y = out<S>(y);
  a.rstd = out<wide_t<S>>(rstd);
  a.x = in<S>(x);
  a.weight = in<S>(weight);
  a.rows = x.size(0);
  a.hidden = x.size(1);
  return a;
}

}  // namespace

AddRmsNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                        double eps) {
  const OnDevice stream(x, {{"residual", residual}, {"weight", weight}});
  AddRmsNorm result{residual.defined() ? at::empty_like(x) : at::Tensor(), at::empty_like(x),
                    at::empty({x.size(0)}, x.options().dtype(at::toOpMathType(x.scalar_type())))};
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm", [&] {
    auto a = args<scalar_t>(result.y, result.rstd, x, weight);
    a.sum = out<scalar_t>(result.sum);
    a.residual = in<scalar_t>(residual);
    a.eps = eps;
    kernels::rms_norm(a, stream);
  });
  return result;
}

at::Tensor rms_norm_from(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight) {
  const OnDevice stream(x, {{"rstd", rstd}, {"weight", weight}});
  at::Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm_from", [&] {
    auto a = args<scalar_t>(y, rstd, x, weight);
    a.from_rstd = true;
    kernels::rms_norm(a, stream);
  });
  return y;
}

RmsNormGrad rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                              const at::Tensor& weight, const at::Tensor& dsum) {
  const OnDevice stream(x, {{"dy", dy}, {"rstd", rstd}, {"weight", weight}, {"dsum", dsum}});
  const int64_t rows = x.size(0), hidden = x.size(1);
  RmsNormGrad grad{at::empty_like(x), at::empty({hidden}, rstd.options())};
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rms_norm_backward", [&] {
    using T = kernel_t<scalar_t>;
    const at::Tensor parts =
        at::empty({kernels::rms_norm_parts<T>(rows, hidden), hidden}, rstd.options());
    kernels::RmsNormBackwardArgs<T> a{};
    a.dx = out<scalar_t>(grad.dx);
    a.dweight = out<wide_t<scalar_t>>(grad.dweight);
    a.parts = out<wide_t<scalar_t>>(parts);
    a.dy = in<scalar_t>(dy);
    a.x = in<scalar_t>(x);
    a.dsum = in<scalar_t>(dsum);
    a.rstd = in<wide_t<scalar_t>>(rstd);
    a.weight = in<scalar_t>(weight);
    a.rows = rows;
    a.hidden = hidden;
    kernels::rms_norm_backward(a, stream);
  });
  return grad;
}

}  // namespace conclave::ops::cuda
