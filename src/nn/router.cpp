#include "nn/router.h"

#include <ATen/ops/add.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>

#include "ops/balance.h"
#include "ops/matmul.h"

namespace conclave::nn {
namespace {

// The router computes in fp32 or wider, whatever the model's type.
at::Tensor widened(const at::Tensor& t) {
  return t.scalar_type() == at::kBFloat16 ? t.to(at::kFloat) : t;
}

ops::Selection selection_of(const RouterOptions& o) {
  return {.scoring = o.scoring,
          .top_k = o.top_k,
          .renormalise = o.renormalise,
          .scale = o.scale,
          .groups = o.groups,
          .top_groups = o.top_groups};
}

// The router's losses on one micro-batch, with what they multiply already in the coefficients.
struct Losses {
  double row, sequence, z;
  ops::Scoring scoring;
  std::vector<int64_t> row_offsets, doc_offsets;

  Losses(const RouterOptions& o, const Rows& rows)
      : row(o.aux_coef * rows.aux_seed),
        sequence(o.sequence_aux_coef * rows.token_seed),
        z(o.z_coef * rows.token_seed),
        scoring(o.scoring) {
    if (row != 0) row_offsets = rows.row_offsets;
    if (sequence != 0) doc_offsets = rows.doc_offsets;
  }

  struct Balance {
    at::Tensor loss, dprobs;  // undefined where there is no such loss
  };
  Balance balance(const at::Tensor& logits, const at::Tensor& ids) const {
    Balance sum;
    if (row == 0 && sequence == 0) return sum;
    const at::Tensor probs = ops::balance_probs(logits, scoring);
    auto add = [&](const std::vector<int64_t>& offsets, double coef, ops::GroupWeight weight) {
      if (coef == 0) return;
      auto [loss, dprobs] = ops::balance_loss(probs, ids, offsets, coef, weight);
      sum.loss = sum.loss.defined() ? at::add(sum.loss, loss) : loss;
      sum.dprobs = sum.dprobs.defined() ? at::add(sum.dprobs, dprobs) : dprobs;
    };
    add(row_offsets, row, ops::GroupWeight::one);
    add(doc_offsets, sequence, ops::GroupWeight::length);
    return sum;
  }

  at::Tensor value(const at::Tensor& logits, const at::Tensor& ids) const {
    at::Tensor loss = balance(logits, ids).loss;
    if (z == 0) return loss;
    at::Tensor z_part = ops::z_loss(logits, z).loss;
    return loss.defined() ? at::add(loss, z_part) : z_part;
  }
};

// The ids that rows.gate or rows.replay prescribe; undefined: the router chooses.
at::Tensor given_ids(const Rows& rows, const RouterOptions& o, int64_t tokens, int64_t experts,
                     at::Device device) {
  if (rows.gate == Gate::balanced) return ops::balanced_ids(tokens, o.top_k, experts, device);
  if (rows.gate == Gate::uniform)
    return ops::uniform_ids(tokens, o.top_k, experts, rows.gate_seed,
                            static_cast<uint64_t>(o.layer), device);
  if (!rows.replay) return {};
  const auto layer = static_cast<size_t>(o.layer);
  TORCH_CHECK(layer < rows.replay->size(), "replay: expected an entry for layer ", o.layer,
              ", got entries for ", rows.replay->size(), " layers");
  return (*rows.replay)[layer];
}

at::Tensor logits_of(const at::Tensor& x, const Weight& w, const Weight* bias) {
  at::Tensor logits = ops::wide_linear(x, w.data());
  if (bias) logits.add_(bias->data());
  return logits;
}

}  // namespace

Routed route(Tape& tape, const Value& x, Weight& w, const Rows& rows, const RouterOptions& o) {
  Part part("router");
  const ops::Selection selection = selection_of(o);
  const at::Tensor given = given_ids(rows, o, x.data.size(0), w.shape().front(), x.data.device());
  if (rows.gate == Gate::balanced) {
    const auto dtype = widened(x.data).scalar_type();
    const at::Tensor even =
        at::full(given.sizes(), 1 / static_cast<double>(o.top_k), x.data.options().dtype(dtype));
    return {x, given, tape.input(even), ops::loads_of(given, w.shape().front()), {}};
  }
  const at::Tensor logits = logits_of(x.data, w, o.bias);
  const auto [ids, weights, loads] = ops::route(
      logits, o.correction_bias ? o.correction_bias->data() : at::Tensor(), selection, given);
  const Losses losses(o, rows);
  const Saved saved = tape.save(x), saved_logits = tape.save("router", logits);
  Routed out{x, ids, {}, loads, losses.value(logits, ids)};
  out.weights = tape.record(weights, [=, id = x.id, &w, bias = o.bias, ids = ids](
                                         Tape& tape, const at::Tensor& dweights) {
    const at::Tensor logits = saved_logits.get();
    at::Tensor dlogits =
        ops::route_backward(dweights, losses.balance(logits, ids).dprobs, logits, ids, selection);
    if (losses.z != 0) dlogits.add_(ops::z_loss(logits, losses.z).dlogits);
    if (at::Tensor* sum = tape.own_sum(id))
      ops::wide_linear_backward_input_(*sum, dlogits, w.data());
    else
      tape.add_grad(id, ops::wide_linear_backward_input(dlogits, w.data()), /*own=*/true);
    tape.later([=, &w] {
      ops::wide_linear_backward_weight_(w.grad(), dlogits, saved.get());
      if (bias) ops::column_sum_(bias->grad(), dlogits);
    });
  });
  return out;
}

void correct_bias(Weight& bias, const at::Tensor& loads, double rate) {
  ops::correct_bias_(bias.data(), loads, rate);
}

}  // namespace conclave::nn
