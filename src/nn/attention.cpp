#include "nn/attention.h"

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

Value head_norm_rotary(Tape& tape, const Value& x, Weight& w, double eps, const Rows& rows,
                       const ops::RotaryTable& table) {
  Part part("norms and rotary");
  const int64_t tokens = x.data.size(0), head_dim = w.shape().at(0),
                heads = x.data.size(1) / head_dim;
  auto by_head = [=](const at::Tensor& x) { return x.view({tokens, heads, head_dim}); };
  auto [y, rstd] = ops::head_norm_rotary(by_head(x.data), w.data(), eps, rows.positions, table);
  Saved saved = tape.save(x);
  Saved saved_rstd = tape.save("statistics", rstd);
  Value out = tape.record(
      y, [=, id = x.id, &w, positions = rows.positions](Tape& tape, const at::Tensor& dy) {
        auto [dx, dweight] = ops::head_norm_rotary_backward(
            dy, by_head(saved.get()), saved_rstd.get(), w.data(), positions, table);
        tape.add_grad(id, dx.view({tokens, heads * head_dim}));
        tape.later([=, dweight = dweight, &w] { w.grad().add_(dweight); });
      });
  out.made_again_by("rotary", [=, &w, positions = rows.positions] {
    return ops::head_norm_rotary_from(by_head(saved.get()), saved_rstd.get(), w.data(), positions,
                                      table);
  });
  return out;
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
