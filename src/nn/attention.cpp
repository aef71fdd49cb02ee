#include "nn/attention.h"

#include <c10/util/Exception.h>

#include "ops/attention.h"
#include "ops/norm.h"

namespace conclave::nn {

Value head_norm_rotary(Tape& tape, const Value& x, Weight& w, double eps, const Rows& rows,
                       const ops::RotaryTable& table) {
  const int64_t tokens = x.data.size(0), head_dim = w.shape().at(0),
                heads = x.data.size(1) / head_dim;
  auto by_head = [=](const at::Tensor& x) { return x.view({tokens * heads, head_dim}); };
  auto turn = [=, positions = rows.positions](const at::Tensor& normed) {
    return ops::rotary(normed.view({tokens, heads, head_dim}), positions, table);
  };
  auto [normed, rstd] = ops::rms_norm(by_head(x.data), w.data(), eps);
  Saved saved = tape.save(x);
  Saved saved_rstd = tape.save("statistics", rstd);
  Value out = tape.record(turn(normed), [=, id = x.id, &w, positions = rows.positions](
                                            Tape& tape, const at::Tensor& dy) {
    at::Tensor dnormed = ops::rotary_backward(dy, positions, table);
    auto [dx, dweight] =
        ops::rms_norm_backward(by_head(dnormed), by_head(saved.get()), saved_rstd.get(), w.data());
    tape.add_grad(id, dx.view({tokens, heads * head_dim}));
    tape.later([=, &w] { w.grad().add_(dweight); });
  });
  out.made_again_by("rotary", [=, &w] {
    return turn(ops::rms_norm_from(by_head(saved.get()), saved_rstd.get(), w.data()));
  });
  return out;
}

namespace {

// Generation: one document whose earlier keys and values are in the cache. No gradient.
Value attend_cached(Tape& tape, const Value& q, const at::Tensor& k, const at::Tensor& v,
                    const Rows& rows, double scale, int layer) {
  TORCH_CHECK(!tape.recording(),
              "attention: a cache is for generation; expected a tape that does not record");
  TORCH_CHECK(rows.doc_offsets.size() == 2, "attention: a cache holds one document, got ",
              rows.doc_offsets.size() - 1);
  const auto seen = rows.cache->append(layer, k, v);
  const std::vector<int64_t> keys{0, seen.k.size(0)};
  auto attended = ops::attention(q.data, seen.k, seen.v, rows.doc_offsets, keys, scale);
  return tape.record(attended.out.view({q.data.size(0), -1}), {});
}

}  // namespace

Value attention(Tape& tape, const Value& q, const Value& k, const Value& v, const Rows& rows,
                double scale, int layer) {
  const int64_t tokens = q.data.size(0), width = q.data.size(1) * q.data.size(2);
  const std::vector<int64_t> kv_shape{tokens, k.data.size(1), k.data.size(2)};
  if (rows.cache) return attend_cached(tape, q, k.data, v.data.view(kv_shape), rows, scale, layer);
  auto forward = [=, docs = rows.doc_offsets](const at::Tensor& q, const at::Tensor& k,
                                              const at::Tensor& v) {
    return ops::attention(q, k, v.view(kv_shape), docs, docs, scale);
  };
  Saved saved_q = tape.save(q), saved_k = tape.save(k), saved_v = tape.save(v);
  auto [out, lse] = forward(q.data, k.data, v.data);
  // The backward needs out and lse: both are kept, or made again together by the class "attention".
  Value made{out.view({tokens, width}), -1, {}, {}};
  made.made_again_by("attention", [=] {
    return forward(saved_q.get(), saved_k.get(), saved_v.get()).out.view({tokens, width});
  });
  Saved saved_out = tape.save(made), saved_lse = tape.save("statistics", lse);
  Value y = tape.record(made.data, [=, iq = q.id, ik = k.id, iv = v.id, docs = rows.doc_offsets](
                                       Tape& tape, const at::Tensor& dy) {
    const at::Tensor q = saved_q.get();
    auto [dq, dk, dv] = ops::attention_backward(
        dy.view(q.sizes()), q, saved_k.get(), saved_v.get().view(kv_shape),
        saved_out.get().view(q.sizes()), saved_lse.get(), docs, docs, scale);
    tape.add_grad(iq, dq);
    tape.add_grad(ik, dk);
    tape.add_grad(iv, dv.view({tokens, -1}));
  });
  y.tensor_class = made.tensor_class;
  y.recipe = made.recipe;
  return y;
}

}  // namespace conclave::nn
