#include "ops/rotary_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <vector>

#include "kernels/rotary.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

// What both kinds of arguments say of rows like those of x [tokens, heads, dim].
template <class S, class Args>
void set_rows(Args& a, const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table) {
  a.positions = positions.const_data_ptr<int64_t>();
  a.cos = in<wide_t<S>>(table.cos);
  a.sin = in<wide_t<S>>(table.sin);
  a.tokens = x.size(0);
  a.known = table.cos.size(0);
  a.dim = static_cast<int>(x.size(2));
}

template <class S>
kernels::RotaryArgs<kernel_t<S>> args(const at::Tensor& y, const at::Tensor& x,
                                      const at::Tensor& positions, const RotaryTable& table) {
  kernels::RotaryArgs<kernel_t<S>> a{};
  a.y = out<S>(y);
  a.x = in<S>(x);
  a.heads = static_cast<int>(x.size(1));
  set_rows<S>(a, x, positions, table);
  return a;
}

// What queries, or keys, have apart. Tensors that a kernel does not look at may be undefined.
struct Apart {
  at::Tensor y, x, dy, rstd, weight;
};

template <class S>
kernels::HeadNormRotaryArgs<kernel_t<S>> norm_args(const std::vector<Apart>& of,
                                                   const at::Tensor& positions,
                                                   const RotaryTable& table) {
  kernels::HeadNormRotaryArgs<kernel_t<S>> a{};
  for (const Apart& t : of)
    a.of[a.count++] = {out<S>(t.y),     in<S>(t.x),
                       in<S>(t.dy),     out<wide_t<S>>(t.rstd),
                       in<S>(t.weight), static_cast<int>(t.x.size(1))};
  set_rows<S>(a, of.front().x, positions, table);
  return a;
}

OnDevice on_device(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table) {
  return OnDevice(x, {{"positions", positions}, {"cos", table.cos}, {"sin", table.sin}});
}

OnDevice on_device(const std::vector<Apart>& of, const at::Tensor& positions,
                   const RotaryTable& table) {
  const at::Tensor& x = of.front().x;
  for (const Apart& t : of) OnDevice(x, {{"weight", t.weight}, {"rstd", t.rstd}, {"dy", t.dy}});
  return on_device(x, positions, table);
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

HeadNormRotary head_norm_rotary(const QueryKey& x, const QueryKey& weight, double eps,
                                const at::Tensor& positions, const RotaryTable& table) {
  check_head_dim(x.q);
  auto statistics = [](const at::Tensor& x) {
    return at::empty({x.size(0) * x.size(1)}, x.options().dtype(at::toOpMathType(x.scalar_type())));
  };
  const HeadNormRotary result{{at::empty_like(x.q), at::empty_like(x.k)},
                              {statistics(x.q), statistics(x.k)}};
  const std::vector<Apart> both{{result.y.q, x.q, {}, result.rstd.q, weight.q},
                                {result.y.k, x.k, {}, result.rstd.k, weight.k}};
  const OnDevice stream = on_device(both, positions, table);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.q.scalar_type(), "head_norm_rotary", [&] {
    auto a = norm_args<scalar_t>(both, positions, table);
    a.eps = eps;
    kernels::head_norm_rotary(a, stream);
  });
  return result;
}

at::Tensor head_norm_rotary_from(const at::Tensor& x, const at::Tensor& rstd,
                                 const at::Tensor& weight, const at::Tensor& positions,
                                 const RotaryTable& table) {
  check_head_dim(x);
  const std::vector<Apart> one{{at::empty_like(x), x, {}, rstd, weight}};
  const OnDevice stream = on_device(one, positions, table);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "head_norm_rotary_from", [&] {
    auto a = norm_args<scalar_t>(one, positions, table);
    a.from_rstd = true;
    kernels::head_norm_rotary(a, stream);
  });
  return one.front().y;
}

HeadNormRotaryGrad head_norm_rotary_backward(const QueryKey& dy, const QueryKey& x,
                                             const QueryKey& rstd, const QueryKey& weight,
                                             const at::Tensor& positions,
                                             const RotaryTable& table) {
  check_head_dim(x.q);
  const std::vector<Apart> both{{at::empty_like(x.q), x.q, dy.q, rstd.q, weight.q},
                                {at::empty_like(x.k), x.k, dy.k, rstd.k, weight.k}};
  const OnDevice stream = on_device(both, positions, table);
  const int64_t dim = x.q.size(2);
  const at::Tensor dweight = at::empty({2, dim}, rstd.q.options());
  AT_DISPATCH_FLOATING_TYPES_AND(
      at::kBFloat16, x.q.scalar_type(), "head_norm_rotary_backward", [&] {
        const auto a = norm_args<scalar_t>(both, positions, table);
        const at::Tensor parts =
            at::empty({kernels::head_norm_parts(a), 2, dim}, dweight.options());
        kernels::head_norm_rotary_backward(out<wide_t<scalar_t>>(dweight),
                                           out<wide_t<scalar_t>>(parts), a, stream);
      });
  return {{both[0].y, both[1].y}, {dweight[0], dweight[1]}};
}

}  // namespace conclave::ops::cuda
