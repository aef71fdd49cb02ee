#include "ops/balance.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>

#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/router_cuda.h"
#include "ops/router_rows.h"

namespace conclave::ops {
namespace {

at::Tensor loss_of(const std::vector<double>& parts) {
  double sum = 0;
  for (double part : parts) sum += part;
  return at::scalar_tensor(sum, at::kDouble);
}

}  // namespace

at::Tensor balance_probs(const at::Tensor& logits, Scoring scoring) {
  TORCH_CHECK(logits.dim() == 2, "logits: expected [tokens, experts], got ", logits.sizes());
  const int64_t tokens = logits.size(0), experts = logits.size(1);
  CHECK_SHAPE(logits, tokens, experts);
  if constexpr (kCudaBuild)
    if (logits.is_cuda()) return cuda::balance_probs(logits, scoring);
  at::Tensor probs = at::empty_like(logits);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "balance_probs", [&] {
    const scalar_t* from = logits.const_data_ptr<scalar_t>();
    scalar_t* to = probs.data_ptr<scalar_t>();
    each_block(tokens, experts * 8, [&](int64_t t) {
      scalar_t* p = to + t * experts;
      if (scoring != Scoring::sigmoid) return softmax_row(p, from + t * experts, experts);
      sigmoid_row(p, from + t * experts, experts);
      const scalar_t sum =
          sum_over<scalar_t>(experts, [&](int64_t e, auto lanes) { return load(p + e, lanes); }) +
          scalar_t(kSigmoidEpsilon);
      sweep<scalar_t>(
          experts, [&](int64_t e, auto lanes) { store(p + e, load(p + e, lanes) / sum, lanes); });
    });
  });
  return probs;
}

BalanceLoss balance_loss(const at::Tensor& probs, const at::Tensor& ids,
                         std::span<const int64_t> offsets, double coef, GroupWeight weight) {
  TORCH_CHECK(probs.dim() == 2 && ids.dim() == 2,
              "balance_loss: expected probs [tokens, experts] and ids [tokens, top_k], got ",
              probs.sizes(), " and ", ids.sizes());
  const int64_t tokens = probs.size(0), experts = probs.size(1), top_k = ids.size(1);
  CHECK_SHAPE(probs, tokens, experts);
  CHECK_SHAPE(ids, tokens, top_k);
  CHECK_DTYPE(ids, at::kLong);
  TORCH_CHECK(!offsets.empty() && offsets.front() == 0 && offsets.back() == tokens &&
                  std::is_sorted(offsets.begin(), offsets.end()),
              "offsets: expected ascending values from 0 to tokens = ", tokens);
  if constexpr (kCudaBuild)
    if (probs.is_cuda()) return cuda::balance_loss(probs, ids, offsets, coef, weight);
  at::Tensor dprobs = at::empty_like(probs);
  const int64_t groups = static_cast<int64_t>(offsets.size()) - 1;
  std::vector<double> losses(groups);
  AT_DISPATCH_FLOATING_TYPES(probs.scalar_type(), "balance_loss", [&] {
    const scalar_t* p = probs.const_data_ptr<scalar_t>();
    const int64_t* chosen = ids.const_data_ptr<int64_t>();
    scalar_t* to = dprobs.data_ptr<scalar_t>();
    each_block(groups, tokens / std::max<int64_t>(groups, 1) * experts, [&](int64_t g) {
      const int64_t begin = offsets[g], end = offsets[g + 1], length = end - begin;
      if (length == 0) return;
      std::vector<int64_t> loads(experts, 0);
      std::vector<double> sums(experts, 0);
      count_loads(loads.data(), chosen + begin * top_k, length * top_k, experts);
      for (int64_t t = begin; t < end; ++t)
        for (int64_t e = 0; e < experts; ++e) sums[e] += p[t * experts + e];
      double scale = coef * double(experts) / (double(top_k) * double(length) * double(length));
      if (weight == GroupWeight::length) scale *= double(length);
      std::vector<scalar_t> gradient(experts);
      for (int64_t e = 0; e < experts; ++e) {
        gradient[e] = static_cast<scalar_t>(scale * double(loads[e]));
        losses[g] += scale * double(loads[e]) * sums[e];
      }
      for (int64_t t = begin; t < end; ++t) std::copy_n(gradient.data(), experts, to + t * experts);
    });
  });
  return {loss_of(losses), dprobs};
}

ZLoss z_loss(const at::Tensor& logits, double coef) {
  TORCH_CHECK(logits.dim() == 2, "logits: expected [tokens, experts], got ", logits.sizes());
  const int64_t tokens = logits.size(0), experts = logits.size(1);
  CHECK_SHAPE(logits, tokens, experts);
  if constexpr (kCudaBuild)
    if (logits.is_cuda()) return cuda::z_loss(logits, coef);
  at::Tensor dlogits = at::empty_like(logits);
  std::vector<double> losses(tokens);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "z_loss", [&] {
    const scalar_t* from = logits.const_data_ptr<scalar_t>();
    scalar_t* to = dlogits.data_ptr<scalar_t>();
    each_block(tokens, experts * 8, [&](int64_t t) {
      scalar_t* d = to + t * experts;
      const scalar_t largest = row_max(from + t * experts, experts);
      std::copy_n(from + t * experts, experts, d);
      const scalar_t sum = row_exp(d, experts, largest), log_sum = largest + std::log(sum),
                     scale = static_cast<scalar_t>(2 * coef * double(log_sum)) / sum;
      losses[t] = coef * double(log_sum) * double(log_sum);
      sweep<scalar_t>(
          experts, [&](int64_t e, auto lanes) { store(d + e, load(d + e, lanes) * scale, lanes); });
    });
  });
  return {loss_of(losses), dlogits};
}

void correct_bias_(at::Tensor bias, const at::Tensor& loads, double rate) {
  const int64_t experts = loads.numel();
  CHECK_SHAPE(bias, experts);
  CHECK_SHAPE(loads, experts);
  CHECK_DTYPE(loads, at::kLong);
  if constexpr (kCudaBuild)
    if (bias.is_cuda()) return cuda::correct_bias_(bias, loads, rate);
  const int64_t* load = loads.const_data_ptr<int64_t>();
  int64_t sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += load[e];
  AT_DISPATCH_FLOATING_TYPES(bias.scalar_type(), "correct_bias_", [&] {
    scalar_t* b = bias.data_ptr<scalar_t>();
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t missing = sum - load[e] * experts;  // experts · (mean load − load)
      b[e] += static_cast<scalar_t>(rate) * static_cast<scalar_t>((missing > 0) - (missing < 0));
    }
  });
}

}  // namespace conclave::ops
