#include "nn/router.h"

#include "ops/matmul.h"
#include "ops/router.h"

namespace conclave::nn {
namespace {

// The router computes in fp32 or wider, whatever the model's type.
at::Tensor widened(const at::Tensor& t) {
  return t.scalar_type() == at::kBFloat16 ? t.to(at::kFloat) : t;
}

}  // namespace

Routed route(Tape& tape, const Value& x, Weight& w, const Rows& rows,
             const RouterOptions& options) {
  auto [probs, ids, weights, loads] = ops::softmax_top_k(
      ops::linear(widened(x.data), widened(w.data())), options.top_k, options.renormalise);
  Saved saved = tape.save(x), saved_probs = tape.save("router", probs);
  const double coef = options.aux_coef * rows.aux_seed;
  Routed out{x, ids, {}, loads, 0};
  if (coef != 0) out.aux = ops::balance_loss(probs, ids, rows.row_offsets, coef).loss;
  // The chosen ids are kept, so that a recompute cannot route otherwise.
  out.weights = tape.record(weights, [=, id = x.id, &w, row_offsets = rows.row_offsets](
                                         Tape& tape, const at::Tensor& dweights) {
    const at::Tensor probs = saved_probs.get();
    at::Tensor dprobs =
        coef != 0 ? ops::balance_loss(probs, ids, row_offsets, coef).dprobs : at::Tensor();
    at::Tensor dlogits =
        ops::softmax_top_k_backward(dweights, dprobs, probs, ids, options.renormalise);
    tape.add_grad(
        id, ops::linear_backward_input(dlogits, widened(w.data())).to(w.data().scalar_type()));
    tape.later([=, &w] { ops::linear_backward_weight_(w.grad(), dlogits, widened(saved.get())); });
  });
  return out;
}

}  // namespace conclave::nn
