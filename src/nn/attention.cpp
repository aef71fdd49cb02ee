#include "nn/attention.h"

#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include "ops/attention.h"
#include "ops/head_norm_rotary.h"

namespace conclave::nn {

Value rotary(Tape& tape, const Value& x, int64_t heads, const Rows& rows,
             const ops::RotaryTable& table, ops::RotaryForm form) {
  Part part("norms and rotary");
  const int64_t tokens = x.data.size(0), width = x.data.size(1);
  TORCH_CHECK(width % heads == 0, "rotary: expected a multiple of heads = ", heads, ", got ",
              width);
  auto turn = [=, positions = rows.positions](const at::Tensor& x) {
    return ops::rotary(x.view({tokens, heads, width / heads}), positions, table, form);
  };
  // The backward does not need x: it is kept only for a recompute.
  Saved saved = tape.recomputes("rotary") ? tape.save(x) : Saved();
  Value out = tape.record(
      turn(x.data), [=, id = x.id, positions = rows.positions](Tape& tape, const at::Tensor& dy) {
        tape.add_grad(id, ops::rotary_backward(dy, positions, table, form).view({tokens, width}));
      });
  out.made_again_by("rotary", [=] { return turn(saved.get()); });
  return out;
}

std::pair<Value, Value> head_norm_rotary(Tape& tape, const Value& q, const Value& k,
                                         Weight& q_weight, Weight& k_weight, double eps,
                                         const Rows& rows, const ops::RotaryTable& table) {
  Part part("norms and rotary");
  const int64_t tokens = q.data.size(0), head_dim = q_weight.shape().at(0);
  auto by_head = [=](const at::Tensor& x) {
    return x.view({tokens, x.size(1) / head_dim, head_dim});
  };
  auto weights = [&q_weight, &k_weight] { return ops::QueryKey{q_weight.data(), k_weight.data()}; };
  const auto made = ops::head_norm_rotary({by_head(q.data), by_head(k.data)}, weights(), eps,
                                          rows.positions, table);
  Saved saved_q = tape.save(q), saved_k = tape.save(k);
  Saved q_rstd = tape.save("statistics", made.rstd.q),
        k_rstd = tape.save("statistics", made.rstd.k);
  // An undefined gradient is zero.
  auto backward = [=, iq = q.id, ik = k.id, &q_weight, &k_weight, positions = rows.positions](
                      Tape& tape, const at::Tensor& dq, const at::Tensor& dk) {
    const ops::QueryKey x{by_head(saved_q.get()), by_head(saved_k.get())},
        dy{dq.defined() ? dq : at::zeros_like(x.q), dk.defined() ? dk : at::zeros_like(x.k)};
    const auto grad = ops::head_norm_rotary_backward(dy, x, {q_rstd.get(), k_rstd.get()}, weights(),
                                                     positions, table);
    tape.add_grad(iq, grad.dx.q.flatten(1));
    tape.add_grad(ik, grad.dx.k.flatten(1));
    tape.later([dweight = grad.dweight, &q_weight, &k_weight] {
      q_weight.grad().add_(dweight.q);
      k_weight.grad().add_(dweight.k);
    });
  };
  // The keys' step comes first in the backward and takes the queries' gradient too.
  Value y_q =
      tape.record(made.y.q, [=](Tape& tape, const at::Tensor& dq) { backward(tape, dq, {}); });
  Value y_k = tape.record(made.y.k, [=, id = y_q.id](Tape& tape, const at::Tensor& dk) {
    backward(tape, tape.take_sum(id), dk);
  });
  auto again = [&](Value& y, const Saved& x, const Saved& rstd, Weight& w) {
    y.made_again_by("rotary", [=, &w, positions = rows.positions] {
      return ops::head_norm_rotary_from(by_head(x.get()), rstd.get(), w.data(), positions, table);
    });
  };
  again(y_q, saved_q, q_rstd, q_weight);
  again(y_k, saved_k, k_rstd, k_weight);
  return {std::move(y_q), std::move(y_k)};
}

void check_cached(const Tape& tape, const Rows& rows) {
  TORCH_CHECK(!tape.recording(),
              "attention: a cache is for generation; expected a tape that does not record");
  TORCH_CHECK(rows.doc_offsets.size() == 2, "attention: a cache holds one document, got ",
              rows.doc_offsets.size() - 1);
}

namespace {

ops::AttentionOptions with_data(const AttentionOptions& o) {
  return {o.scale, o.window, o.sinks ? o.sinks->data() : at::Tensor()};
}

// Generation: one document whose earlier keys and values are in the cache. No gradient.
Value attend_cached(Tape& tape, const Value& q, const at::Tensor& k, const at::Tensor& v,
                    const Rows& rows, const AttentionOptions& options, int layer) {
  check_cached(tape, rows);
  const auto seen = rows.cache->append(layer, k, v);
  const std::vector<int64_t> keys{0, seen.k.size(0)};
  auto attended =
      ops::attention(q.data, seen.k, seen.v, rows.doc_offsets, keys, with_data(options));
  return tape.record(attended.out.flatten(1), {});
}

}  // namespace

Value attention(Tape& tape, const Value& q, const Value& k, const Value& v, const Rows& rows,
                const AttentionOptions& options, int layer) {
  Part part("attention");
  const int64_t tokens = q.data.size(0), heads = q.data.size(1), kv_heads = k.data.size(1),
                v_dim = v.data.size(1) / kv_heads;
  const std::vector<int64_t> v_shape{tokens, kv_heads, v_dim}, out_shape{tokens, heads, v_dim};
  if (rows.cache) return attend_cached(tape, q, k.data, v.data.view(v_shape), rows, options, layer);
  auto forward = [=, docs = rows.doc_offsets](const at::Tensor& q, const at::Tensor& k,
                                              const at::Tensor& v) {
    return ops::attention(q, k, v.view(v_shape), docs, docs, with_data(options));
  };
  Saved saved_q = tape.save(q), saved_k = tape.save(k), saved_v = tape.save(v);
  auto [out, lse] = forward(q.data, k.data, v.data);
  // The backward needs out and lse: out is kept, or made again by the class "attention".
  Value made{out.flatten(1), -1, {}, {}};
  made.made_again_by("attention", [=] {
    return forward(saved_q.get(), saved_k.get(), saved_v.get()).out.flatten(1);
  });
  Saved saved_out = tape.save(made), saved_lse = tape.save("statistics", lse);
  Value y = tape.record(made.data, [=, iq = q.id, ik = k.id, iv = v.id, docs = rows.doc_offsets](
                                       Tape& tape, const at::Tensor& dy) {
    auto g = ops::attention_backward(dy.view(out_shape), saved_q.get(), saved_k.get(),
                                     saved_v.get().view(v_shape), saved_out.get().view(out_shape),
                                     saved_lse.get(), docs, docs, with_data(options));
    tape.add_grad(iq, g.dq);
    tape.add_grad(ik, g.dk);
    tape.add_grad(iv, g.dv.flatten(1));
    if (options.sinks) tape.later([=] { options.sinks->grad().add_(g.dsinks); });
  });
  y.tensor_class = made.tensor_class;
  y.recipe = made.recipe;
  return y;
}

}  // namespace conclave::nn
