#include "nn/mla.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>

#include "nn/attention.h"
#include "ops/attention.h"
#include "ops/matmul.h"
#include "ops/mla.h"

namespace conclave::nn {
namespace {

constexpr auto kForm = ops::RotaryForm::interleaved;

// What a layer does to its tensors, forward and in the backward's repetition of it.
struct Mla {
  MlaOptions o;
  ops::RotaryTable table;
  at::Tensor positions;
  std::vector<int64_t> docs;
  Weight* kv_b;

  struct Operands {
    at::Tensor q, k, v;  // [tokens, heads, nope + rope], the same, [tokens, heads, v_dim]
  };

  at::Tensor by_head(const at::Tensor& q) const { return q.view({-1, o.heads, o.nope + o.rope}); }
  at::Tensor turned_q(const at::Tensor& q) const {
    return ops::rotary(by_head(q), positions, table, kForm, o.nope);
  }
  at::Tensor turned_k(const at::Tensor& k_rope) const {  // [tokens, rope]
    return ops::rotary(k_rope.unsqueeze(1), positions, table, kForm).squeeze(1);
  }
  Operands operands(const at::Tensor& q, const at::Tensor& latent, const at::Tensor& k_rope) const {
    auto [k, v] =
        ops::mla_keys_values(ops::linear(latent, kv_b->data()), turned_k(k_rope), o.heads, o.v_dim);
    return {turned_q(q), k, v};
  }
  ops::Attention attend(const Operands& x) const {
    return ops::attention(x.q, x.k, x.v, docs, docs, {.scale = o.scale});
  }
};

// Generation after the first tokens: kv_b's half for keys is applied to the queries and its half
// for values to the sums of latents, so that a step costs O(seen · kv_rank) a head and no old key
// is expanded again. Arithmetic of arXiv 2405.04434, 2.1.2. seen.k [seen, 1, kv_rank] are latents,
// seen.v [seen, 1, rope] rotated keys.
at::Tensor attend_latents(const Mla& m, const at::Tensor& q, const KvCache::Seen& seen) {
  const MlaOptions& o = m.o;
  const int64_t tokens = q.size(0), rank = seen.k.size(2), rows = o.heads * tokens;
  const at::Tensor w = m.kv_b->data().view({o.heads, o.nope + o.v_dim, rank});
  const at::Tensor offsets =  // of the heads' rows, as ops/matmul.h wants them
      at::arange(0, rows + 1, tokens, q.options().dtype(q.is_cuda() ? at::kInt : at::kLong));
  const at::Tensor by_head =
      q.narrow(2, 0, o.nope).transpose(0, 1).contiguous().view({rows, o.nope});
  const at::Tensor q_latent =
      ops::grouped_linear_backward_input(by_head, w.narrow(1, 0, o.nope).contiguous(), offsets);
  const at::Tensor full_q =
      at::cat({q_latent.view({o.heads, tokens, rank}).transpose(0, 1), q.narrow(2, o.nope, o.rope)},
              2)
          .contiguous();
  const std::vector<int64_t> keys{0, seen.k.size(0)};
  const at::Tensor sums =
      ops::attention(full_q, at::cat({seen.k, seen.v}, 2), seen.k, m.docs, keys, {.scale = o.scale})
          .out;  // [tokens, heads, rank]
  return ops::grouped_linear(sums.transpose(0, 1).contiguous().view({rows, rank}),
                             w.narrow(1, o.nope, o.v_dim).contiguous(), offsets)
      .view({o.heads, tokens, o.v_dim})
      .transpose(0, 1)
      .contiguous();
}

}  // namespace

Value mla(Tape& tape, const Value& q, const Value& latent, const Value& k_rope, Weight& kv_b,
          const Rows& rows, const ops::RotaryTable& table, const MlaOptions& options, int layer) {
  Part part("attention");
  const int64_t tokens = q.data.size(0);
  const Mla m{options, table, rows.positions, rows.doc_offsets, &kv_b};
  if (rows.cache) {
    check_cached(tape, rows);
    const auto seen =
        rows.cache->append(layer, latent.data.unsqueeze(1), m.turned_k(k_rope.data).unsqueeze(1));
    const at::Tensor out = seen.k.size(0) > tokens
                               ? attend_latents(m, m.turned_q(q.data), seen)
                               : m.attend(m.operands(q.data, latent.data, k_rope.data)).out;
    return tape.record(out.flatten(1), {});
  }
  Saved saved_q = tape.save(q), saved_latent = tape.save(latent), saved_k = tape.save(k_rope);
  auto [out, lse] = m.attend(m.operands(q.data, latent.data, k_rope.data));
  Value made{out.flatten(1), -1, {}, {}};
  made.made_again_by("attention", [=] {
    return m.attend(m.operands(saved_q.get(), saved_latent.get(), saved_k.get())).out.flatten(1);
  });
  Saved saved_out = tape.save(made), saved_lse = tape.save("statistics", lse);
  Value y = tape.record(
      made.data, [=, iq = q.id, il = latent.id, ik = k_rope.id](Tape& tape, const at::Tensor& dy) {
        const MlaOptions& o = m.o;
        const std::vector<int64_t> shape{tokens, o.heads, o.v_dim};
        const auto x = m.operands(saved_q.get(), saved_latent.get(), saved_k.get());
        const auto g =
            ops::attention_backward(dy.view(shape), x.q, x.k, x.v, saved_out.get().view(shape),
                                    saved_lse.get(), m.docs, m.docs, {.scale = o.scale});
        tape.add_grad(iq, ops::rotary_backward(g.dq, m.positions, m.table, kForm, o.nope)
                              .view({tokens, o.heads * (o.nope + o.rope)}));
        auto [dkv, dk_rope] = ops::mla_keys_values_backward(g.dk, g.dv, o.rope);
        tape.add_grad(
            ik, ops::rotary_backward(dk_rope.unsqueeze(1), m.positions, m.table, kForm).squeeze(1));
        tape.add_grad(il, ops::linear_backward_input(dkv, m.kv_b->data()));
        tape.later([m, dkv = dkv, saved_latent] {
          ops::linear_backward_weight_(m.kv_b->grad(), dkv, saved_latent.get());
        });
      });
  y.tensor_class = made.tensor_class;
  y.recipe = made.recipe;
  return y;
}

}  // namespace conclave::nn
