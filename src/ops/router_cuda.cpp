#include "ops/router_cuda.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAStream.h>

#include "base/check.h"
#include "kernels/route.h"

namespace conclave::ops::cuda {
namespace {

constexpr double kSigmoidSumEpsilon = 1e-20;  // as in ops/router_rows.h

kernels::RouteScoring scoring_of(Scoring scoring) {
  switch (scoring) {
    case Scoring::softmax_then_top_k:
      return kernels::RouteScoring::softmax_then_top_k;
    case Scoring::top_k_then_softmax:
      return kernels::RouteScoring::top_k_then_softmax;
    case Scoring::sigmoid:
      return kernels::RouteScoring::sigmoid;
  }
  return {};
}

kernels::Route route_of(const at::Tensor& logits, const Selection& s) {
  CHECK_DTYPE(logits, at::kFloat);
  TORCH_CHECK(logits.size(1) <= kernels::kMostRoutedExperts && s.top_k <= kernels::kMostTopK &&
                  s.groups <= kernels::kMostGroups,
              "route: expected at most ", kernels::kMostRoutedExperts, " experts, ",
              kernels::kMostTopK, " a token and ", kernels::kMostGroups, " groups on CUDA, got ",
              logits.size(1), ", ", s.top_k, " and ", s.groups);
  kernels::Route p{};
  p.logits = logits.const_data_ptr<float>();
  p.tokens = logits.size(0);
  p.experts = static_cast<int>(logits.size(1));
  p.top_k = static_cast<int>(s.top_k);
  p.scoring = scoring_of(s.scoring);
  p.renormalise = s.renormalise;
  p.scale = static_cast<float>(s.scale);
  p.groups = static_cast<int>(s.groups);
  p.top_groups = static_cast<int>(s.top_groups);
  return p;
}

}  // namespace

Routing route(const at::Tensor& logits, const at::Tensor& correction_bias,
              const Selection& selection, const at::Tensor& given) {
  const at::TensorOptions integer = logits.options().dtype(at::kLong);
  const int64_t tokens = logits.size(0);
  Routing out{given.defined() ? given : at::empty({tokens, selection.top_k}, integer),
              at::empty({tokens, selection.top_k}, logits.options()),
              at::zeros({logits.size(1)}, integer)};
  kernels::Route p = route_of(logits, selection);
  if (correction_bias.defined()) p.bias = correction_bias.const_data_ptr<float>();
  if (given.defined()) p.given = given.const_data_ptr<int64_t>();
  kernels::route(p, given.defined() ? nullptr : out.ids.data_ptr<int64_t>(),
                 out.weights.data_ptr<float>(), out.loads.data_ptr<int64_t>(),
                 c10::cuda::getCurrentCUDAStream());
  return out;
}

at::Tensor route_backward(const at::Tensor& dweights, const at::Tensor& dprobs,
                          const at::Tensor& logits, const at::Tensor& ids,
                          const Selection& selection) {
  at::Tensor dlogits = at::empty_like(logits);
  kernels::Route p = route_of(logits, selection);
  p.given = ids.const_data_ptr<int64_t>();
  kernels::route_backward(p, dweights.const_data_ptr<float>(),
                          dprobs.defined() ? dprobs.const_data_ptr<float>() : nullptr,
                          dlogits.data_ptr<float>(), c10::cuda::getCurrentCUDAStream());
  return dlogits;
}

at::Tensor balanced_ids(int64_t tokens, int64_t top_k, int64_t experts, at::Device device) {
  at::Tensor ids = at::empty({tokens, top_k}, at::TensorOptions().dtype(at::kLong).device(device));
  kernels::balanced_ids(ids.data_ptr<int64_t>(), tokens * top_k, static_cast<int>(experts),
                        c10::cuda::getCurrentCUDAStream());
  return ids;
}

at::Tensor uniform_ids(int64_t tokens, int64_t top_k, int64_t experts, uint64_t seed,
                       uint64_t stream, at::Device device) {
  at::Tensor ids = at::empty({tokens, top_k}, at::TensorOptions().dtype(at::kLong).device(device));
  kernels::uniform_ids(ids.data_ptr<int64_t>(), tokens, static_cast<int>(top_k),
                       static_cast<int>(experts), seed, stream, c10::cuda::getCurrentCUDAStream());
  return ids;
}

at::Tensor loads_of(const at::Tensor& ids, int64_t experts) {
  return at::zeros({experts}, ids.options())
      .scatter_add_(0, ids.flatten(), at::ones({1}, ids.options()).expand({ids.numel()}));
}

at::Tensor balance_probs(const at::Tensor& logits, Scoring scoring) {
  if (scoring != Scoring::sigmoid) return at::softmax(logits, 1);
  at::Tensor s = at::sigmoid(logits);
  return s.div_(s.sum(1, /*keepdim=*/true).add_(kSigmoidSumEpsilon));
}

BalanceLoss balance_loss(const at::Tensor& probs, const at::Tensor& ids,
                         std::span<const int64_t> offsets, double coef, GroupWeight weight) {
  const int64_t experts = probs.size(1), top_k = ids.size(1);
  at::Tensor dprobs = at::empty_like(probs),
             loss = at::zeros({}, probs.options().dtype(at::kDouble));
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    const int64_t begin = offsets[g], end = offsets[g + 1], length = end - begin;
    if (length == 0) continue;
    double scale =
        coef * static_cast<double>(experts) /
        (static_cast<double>(top_k) * static_cast<double>(length) * static_cast<double>(length));
    if (weight == GroupWeight::length) scale *= static_cast<double>(length);
    const at::Tensor gradient =  // [experts] fp64
        loads_of(ids.slice(0, begin, end), experts).to(at::kDouble).mul_(scale);
    loss.add_(
        probs.slice(0, begin, end).sum(0, /*keepdim=*/false, at::kDouble).mul_(gradient).sum());
    dprobs.slice(0, begin, end).copy_(gradient.to(probs.scalar_type()).expand({length, experts}));
  }
  return {loss, dprobs};
}

ZLoss z_loss(const at::Tensor& logits, double coef) {
  const at::Tensor log_sum = at::logsumexp(logits, {1}, /*keepdim=*/true);
  const at::Tensor wide = log_sum.to(at::kDouble);
  return {wide.mul(wide).sum().mul_(coef), at::softmax(logits, 1).mul_(log_sum.mul(2 * coef))};
}

void correct_bias_(at::Tensor bias, const at::Tensor& loads, double rate) {
  bias.add_(at::sign(loads.sum().sub(loads.mul(loads.numel()))), rate);
}

}  // namespace conclave::ops::cuda
