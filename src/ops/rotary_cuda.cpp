#include "ops/rotary_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "kernels/rotary.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

template <class S>
kernels::RotaryArgs<kernel_t<S>> args(const at::Tensor& y, const at::Tensor& x,
                                      const at::Tensor& positions, const RotaryTable& table) {
  kernels::RotaryArgs<kernel_t<S>> a{};
  a.y = out<S>(y);
  a.x = in<S>(x);
  a.positions = positions.const_data_ptr<int64_t>();
  a.cos = in<wide_t<S>>(table.cos);
  a.sin = in<wide_t<S>>(table.sin);
  a.tokens = x.size(0);
  a.known = table.cos.size(0);
  a.heads = static_cast<int>(x.size(1));
  a.dim = static_cast<int>(x.size(2));
  return a;
}

template <class S>
kernels::HeadNormRotaryArgs<kernel_t<S>> norm_args(const at::Tensor& y, const at::Tensor& x,
                                                   const at::Tensor& rstd, const at::Tensor& weight,
                                                   const at::Tensor& positions,
                                                   const RotaryTable& table) {
  kernels::HeadNormRotaryArgs<kernel_t<S>> a{};
  a.rotary = args<S>(y, x, positions, table);
  a.rstd = out<wide_t<S>>(rstd);
  a.weight = in<S>(weight);
  return a;
}

OnDevice on_device(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
                   const at::Tensor& weight = {}, const at::Tensor& rstd = {},
                   const at::Tensor& dy = {}) {
  return OnDevice(x, {{"positions", positions},
                      {"cos", table.cos},
                      {"sin", table.sin},
                      {"weight", weight},
                      {"rstd", rstd},
                      {"dy", dy}});
}

void check_head_dim(const at::Tensor& x) {
  TORCH_CHECK(x.size(2) <= kernels::kMostHeadDim, "x: expected heads of at most ",
              kernels::kMostHeadDim, " elements on CUDA, got ", x.size(2));
}

}  // namespace

at::Tensor rotate(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
                  RotaryForm form, int64_t passed, bool back) {
  const OnDevice stream = on_device(x, positions, table);
  at::Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "rotary", [&] {
    auto a = args<scalar_t>(y, x, positions, table);
    a.passed = static_cast<int>(passed);
    a.interleaved = form == RotaryForm::interleaved;
    a.back = back;
    kernels::rotary(a, stream);
  });
  return y;
}

HeadNormRotary head_norm_rotary(const at::Tensor& x, const at::Tensor& weight, double eps,
                                const at::Tensor& positions, const RotaryTable& table) {
  check_head_dim(x);
  const OnDevice stream = on_device(x, positions, table, weight);
  HeadNormRotary result{
      at::empty_like(x),
      at::empty({x.size(0) * x.size(1)}, x.options().dtype(at::toOpMathType(x.scalar_type())))};
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "head_norm_rotary", [&] {
    auto a = norm_args<scalar_t>(result.y, x, result.rstd, weight, positions, table);
    a.eps = eps;
    kernels::head_norm_rotary(a, stream);
  });
  return result;
}

at::Tensor head_norm_rotary_from(const at::Tensor& x, const at::Tensor& rstd,
                                 const at::Tensor& weight, const at::Tensor& positions,
                                 const RotaryTable& table) {
  check_head_dim(x);
  const OnDevice stream = on_device(x, positions, table, weight, rstd);
  at::Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "head_norm_rotary_from", [&] {
    auto a = norm_args<scalar_t>(y, x, rstd, weight, positions, table);
    a.from_rstd = true;
    kernels::head_norm_rotary(a, stream);
  });
  return y;
}

RmsNormGrad head_norm_rotary_backward(const at::Tensor& dy, const at::Tensor& x,
                                      const at::Tensor& rstd, const at::Tensor& weight,
                                      const at::Tensor& positions, const RotaryTable& table) {
  check_head_dim(x);
  const OnDevice stream = on_device(x, positions, table, weight, rstd, dy);
  const int64_t rows = x.size(0) * x.size(1), dim = x.size(2);
  RmsNormGrad grad{at::empty_like(x), at::empty({dim}, rstd.options())};
  const at::Tensor parts = at::empty({kernels::head_norm_parts(rows), dim}, rstd.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "head_norm_rotary_backward", [&] {
    kernels::head_norm_rotary_backward(
        out<scalar_t>(grad.dx), out<wide_t<scalar_t>>(grad.dweight), out<wide_t<scalar_t>>(parts),
        in<scalar_t>(dy), norm_args<scalar_t>({}, x, rstd, weight, positions, table), stream);
  });
  return grad;
}

}  // namespace conclave::ops::cuda
