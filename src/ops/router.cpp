#include "ops/router.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <vector>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

template <class A>
void softmax_row(A* p, const A* logits, int64_t experts) {
  A largest = -std::numeric_limits<A>::infinity();
  for (int64_t e = 0; e < experts; ++e) largest = logits[e] > largest ? logits[e] : largest;
  sweep<A>(experts, [&](int64_t e, auto lanes) {
    store(p + e, exp(load(logits + e, lanes) - largest), lanes);
  });
  const A scale =
      A(1) / sum_over<A>(experts, [&](int64_t e, auto lanes) { return load(p + e, lanes); });
  sweep<A>(experts,
           [&](int64_t e, auto lanes) { store(p + e, load(p + e, lanes) * scale, lanes); });
}

// The top_k largest by insertion, in falling order; a later expert must be truly larger to pass an
// earlier one. With NaN the choice means nothing, but the ids are distinct and in range.
template <class A>
void select_row(int64_t* ids, A* weights, const A* p, int64_t experts, int64_t top_k) {
  for (int64_t e = 0; e < experts; ++e) {
    int64_t place = std::min(e, top_k);
    if (place == top_k && !(p[e] > weights[place - 1])) continue;
    if (place == top_k) --place;
    for (; place > 0 && p[e] > weights[place - 1]; --place)
      weights[place] = weights[place - 1], ids[place] = ids[place - 1];
    weights[place] = p[e], ids[place] = e;
  }
}

template <class A>
void renormalise_row(A* weights, int64_t top_k) {
  A sum = 0;
  for (int64_t j = 0; j < top_k; ++j) sum += weights[j];
  for (int64_t j = 0; j < top_k; ++j) weights[j] /= sum;
}

// dlogits = p · (dp − Σ dp · p), where dp is dprobs plus what reaches the chosen through weights =
// p or p / Σ chosen p.
template <class A>
void backward_row(A* dlogits, const A* dweights, const A* dprobs, const A* p, const int64_t* ids,
                  int64_t experts, int64_t top_k, bool renormalise) {
  if (dprobs)
    std::copy_n(dprobs, experts, dlogits);
  else
    std::fill_n(dlogits, experts, A(0));
  A chosen = 0, dot = 0;
  for (int64_t j = 0; j < top_k; ++j) chosen += p[ids[j]], dot += dweights[j] * p[ids[j]];
  for (int64_t j = 0; j < top_k; ++j)
    dlogits[ids[j]] += renormalise ? (dweights[j] - dot / chosen) / chosen : dweights[j];
  const A mean = sum_over<A>(experts, [&](int64_t e, auto lanes) {
    return load(dlogits + e, lanes) * load(p + e, lanes);
  });
  sweep<A>(experts, [&](int64_t e, auto lanes) {
    store(dlogits + e, load(p + e, lanes) * (load(dlogits + e, lanes) - mean), lanes);
  });
}

// counts [experts] += how often each appears in ids.
void count(int64_t* counts, const int64_t* ids, int64_t n, int64_t experts) {
  for (int64_t i = 0; i < n; ++i) {
    TORCH_CHECK(ids[i] >= 0 && ids[i] < experts, "ids: expected 0 … ", experts - 1, ", got ",
                ids[i], " at place ", i);
    ++counts[ids[i]];
  }
}

}  // namespace

SoftmaxTopK softmax_top_k(const at::Tensor& logits, int64_t top_k, bool renormalise) {
  TORCH_CHECK(logits.dim() == 2, "logits: expected [tokens, experts], got ", logits.sizes());
  const int64_t tokens = logits.size(0), experts = logits.size(1);
  CHECK_SHAPE(logits, tokens, experts);
  TORCH_CHECK(top_k >= 1 && top_k <= experts, "top_k: expected 1 … ", experts, ", got ", top_k);
  const at::TensorOptions integer = logits.options().dtype(at::kLong);
  SoftmaxTopK out{at::empty_like(logits), at::empty({tokens, top_k}, integer),
                  at::empty({tokens, top_k}, logits.options()), at::zeros({experts}, integer)};
  int64_t* ids = out.ids.data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "softmax_top_k", [&] {
    const scalar_t* from = logits.const_data_ptr<scalar_t>();
    scalar_t *p = out.probs.data_ptr<scalar_t>(), *w = out.weights.data_ptr<scalar_t>();
    each_block(tokens, experts * (8 + top_k), [&](int64_t t) {
      softmax_row(p + t * experts, from + t * experts, experts);
      select_row(ids + t * top_k, w + t * top_k, p + t * experts, experts, top_k);
      if (renormalise) renormalise_row(w + t * top_k, top_k);
    });
  });
  count(out.loads.data_ptr<int64_t>(), ids, tokens * top_k, experts);
  return out;
}

at::Tensor softmax_top_k_backward(const at::Tensor& dweights, const at::Tensor& dprobs,
                                  const at::Tensor& probs, const at::Tensor& ids,
                                  bool renormalise) {
  TORCH_CHECK(
      probs.dim() == 2 && ids.dim() == 2,
      "softmax_top_k_backward: expected probs [tokens, experts] and ids [tokens, top_k], got ",
      probs.sizes(), " and ", ids.sizes());
  const int64_t tokens = probs.size(0), experts = probs.size(1), top_k = ids.size(1);
  CHECK_SHAPE(probs, tokens, experts);
  CHECK_SHAPE(ids, tokens, top_k);
  CHECK_DTYPE(ids, at::kLong);
  CHECK_SHAPE(dweights, tokens, top_k);
  CHECK_DTYPE(dweights, probs.scalar_type());
  if (dprobs.defined()) {
    CHECK_SHAPE(dprobs, tokens, experts);
    CHECK_DTYPE(dprobs, probs.scalar_type());
  }
  at::Tensor dlogits = at::empty_like(probs);
  AT_DISPATCH_FLOATING_TYPES(probs.scalar_type(), "softmax_top_k_backward", [&] {
    const scalar_t *dw = dweights.const_data_ptr<scalar_t>(), *p = probs.const_data_ptr<scalar_t>();
    const scalar_t* dp = dprobs.defined() ? dprobs.const_data_ptr<scalar_t>() : nullptr;
    const int64_t* chosen = ids.const_data_ptr<int64_t>();
    scalar_t* to = dlogits.data_ptr<scalar_t>();
    each_block(tokens, experts * 4, [&](int64_t t) {
      backward_row(to + t * experts, dw + t * top_k, dp ? dp + t * experts : nullptr,
                   p + t * experts, chosen + t * top_k, experts, top_k, renormalise);
    });
  });
  return dlogits;
}

BalanceLoss balance_loss(const at::Tensor& probs, const at::Tensor& ids,
                         std::span<const int64_t> row_offsets, double coef) {
  TORCH_CHECK(probs.dim() == 2 && ids.dim() == 2,
              "balance_loss: expected probs [tokens, experts] and ids [tokens, top_k], got ",
              probs.sizes(), " and ", ids.sizes());
  const int64_t tokens = probs.size(0), experts = probs.size(1), top_k = ids.size(1);
  CHECK_SHAPE(probs, tokens, experts);
  CHECK_SHAPE(ids, tokens, top_k);
  CHECK_DTYPE(ids, at::kLong);
  TORCH_CHECK(!row_offsets.empty() && row_offsets.front() == 0 && row_offsets.back() == tokens &&
                  std::is_sorted(row_offsets.begin(), row_offsets.end()),
              "row_offsets: expected ascending values from 0 to tokens = ", tokens);
  at::Tensor dprobs = at::empty_like(probs);
  const int64_t rows = static_cast<int64_t>(row_offsets.size()) - 1;
  std::vector<double> losses(rows);
  AT_DISPATCH_FLOATING_TYPES(probs.scalar_type(), "balance_loss", [&] {
    const scalar_t* p = probs.const_data_ptr<scalar_t>();
    const int64_t* chosen = ids.const_data_ptr<int64_t>();
    scalar_t* to = dprobs.data_ptr<scalar_t>();
    each_block(rows, tokens / std::max<int64_t>(rows, 1) * experts, [&](int64_t r) {
      const int64_t begin = row_offsets[r], end = row_offsets[r + 1], length = end - begin;
      std::vector<int64_t> loads(experts, 0);
      std::vector<double> sums(experts, 0);
      count(loads.data(), chosen + begin * top_k, length * top_k, experts);
      for (int64_t t = begin; t < end; ++t)
        for (int64_t e = 0; e < experts; ++e) sums[e] += p[t * experts + e];
      const double scale =
          length == 0 ? 0
                      : coef * double(experts) / (double(top_k) * double(length) * double(length));
      std::vector<scalar_t> gradient(experts);
      for (int64_t e = 0; e < experts; ++e) {
        gradient[e] = static_cast<scalar_t>(scale * double(loads[e]));
        losses[r] += scale * double(loads[e]) * sums[e];
      }
      for (int64_t t = begin; t < end; ++t) std::copy_n(gradient.data(), experts, to + t * experts);
    });
  });
  BalanceLoss out{0, dprobs};
  for (double loss : losses) out.loss += loss;
  return out;
}

}  // namespace conclave::ops
