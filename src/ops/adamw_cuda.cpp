#include "ops/adamw_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "kernels/adamw.h"
#include "kernels/squared_sum.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

static_assert(sizeof(kernels::AdamWScalars) == sizeof(AdamWScalars));

struct Operands {
  const at::Tensor &w, &lo, &m, &v, &g;
  std::span<const int64_t> decay_ranges;
  const AdamWScalars& s;
  const at::Tensor& on_device;
};

template <class W, class M, class G>
void run(const Operands& o, cudaStream_t stream) {
  kernels::AdamWArgs<kernel_t<W>, kernel_t<M>, kernel_t<G>> a{};
  a.w = out<W>(o.w);
  a.lo = o.lo.defined() ? o.lo.data_ptr<int16_t>() : nullptr;
  a.m = out<M>(o.m);
  a.v = out<M>(o.v);
  a.g = in<G>(o.g);
  a.n = o.w.numel();
  a.decay = {o.decay_ranges.data(), static_cast<int64_t>(o.decay_ranges.size())};
  a.scalars = {o.s.keep,     o.s.rest1, o.s.beta2,      o.s.rest2,
               o.s.root_bc2, o.s.eps,   o.s.minus_size, o.s.grad_scale};
  if (o.on_device.defined())
    a.on_device =
        reinterpret_cast<const kernels::AdamWScalars*>(o.on_device.const_data_ptr<double>());
  kernels::adamw(a, stream);
}

}  // namespace

void adamw_(const at::Tensor& w, const at::Tensor& lo, const at::Tensor& m, const at::Tensor& v,
            const at::Tensor& g, std::span<const int64_t> decay_ranges, const AdamWScalars& scalars,
            const at::Tensor& on_device) {
  const OnDevice stream(w, {{"lo", lo}, {"m", m}, {"v", v}, {"g", g}, {"scalars", on_device}});
  const Operands o{w, lo, m, v, g, decay_ranges, scalars, on_device};
  const bool narrow_m = m.scalar_type() == at::kBFloat16,
             narrow_g = g.scalar_type() == at::kBFloat16;
  using c10::BFloat16;
  if (w.scalar_type() == at::kDouble)
    run<double, double, double>(o, stream);
  else if (w.scalar_type() == at::kFloat)
    run<float, float, float>(o, stream);
  else if (narrow_m)
    narrow_g ? run<BFloat16, BFloat16, BFloat16>(o, stream)
             : run<BFloat16, BFloat16, float>(o, stream);
  else
    narrow_g ? run<BFloat16, float, BFloat16>(o, stream) : run<BFloat16, float, float>(o, stream);
}

at::Tensor adamw_scalars(const AdamWRule& rule, const at::Tensor& lr, const at::Tensor& grad_scale,
                         const at::Tensor& steps) {
  const OnDevice stream(steps, {{"lr", lr}, {"grad_scale", grad_scale}});
  at::Tensor scalars = at::empty({kAdamWScalars}, lr.options());
  kernels::adamw_scalars(reinterpret_cast<kernels::AdamWScalars*>(scalars.data_ptr<double>()),
                         steps.data_ptr<int64_t>(), lr.const_data_ptr<double>(),
                         grad_scale.const_data_ptr<double>(),
                         {rule.beta1, rule.beta2, rule.eps, rule.weight_decay}, stream);
  return scalars;
}

void split_master(const at::Tensor& master, const at::Tensor& hi, const at::Tensor& lo) {
  const OnDevice stream(master, {{"hi", hi}, {"lo", lo}});
  kernels::split_master(out<c10::BFloat16>(hi), lo.data_ptr<int16_t>(),
                        master.const_data_ptr<float>(), master.numel(), stream);
}

at::Tensor join_master(const at::Tensor& hi, const at::Tensor& lo) {
  const OnDevice stream(hi, {{"lo", lo}});
  at::Tensor master = at::empty({hi.numel()}, hi.options().dtype(at::kFloat));
  kernels::join_master(master.data_ptr<float>(), in<c10::BFloat16>(hi),
                       lo.const_data_ptr<int16_t>(), hi.numel(), stream);
  return master;
}

void add_squared_sum_(const at::Tensor& sum, const at::Tensor& x) {
  const OnDevice stream(x, {{"sum", sum}});
  const at::Tensor parts = at::empty({kernels::squared_sum_parts(x.numel())}, sum.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "squared_sum", [&] {
    kernels::squared_sum(sum.data_ptr<double>(), parts.data_ptr<double>(), in<scalar_t>(x),
                         x.numel(), stream);
  });
}

at::Tensor clip_scale(const at::Tensor& squared_sum, const at::Tensor& loss, double clip_norm) {
  const OnDevice stream(squared_sum, {{"loss", loss}});
  at::Tensor scale = at::empty_like(squared_sum);
  kernels::clip_scale(scale.data_ptr<double>(), squared_sum.const_data_ptr<double>(),
                      loss.defined() ? loss.const_data_ptr<double>() : nullptr, clip_norm, stream);
  return scale;
}

}  // namespace conclave::ops::cuda
