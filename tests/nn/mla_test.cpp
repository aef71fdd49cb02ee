#include "nn/mla.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>

#include <cmath>

#include "nn/attention_layers.h"

namespace conclave::nn {
namespace {

using namespace testing;

struct Inputs {
  at::Tensor q, latent, k_rope;
};

// x [tokens, …, rope], pair (2i, 2i + 1) of token t turned by t · theta^(−2i/rope).
at::Tensor turned(const at::Tensor& x, double theta) {
  at::Tensor y = x.clone();
  const int64_t rope = x.size(-1);
  for (int64_t t = 0; t < x.size(0); ++t)
    for (int64_t i = 0; i < rope / 2; ++i) {
      const double angle = double(t) * std::pow(theta, -2.0 * double(i) / double(rope));
      const at::Tensor a = x[t].select(-1, 2 * i), b = x[t].select(-1, 2 * i + 1);
      y[t].select(-1, 2 * i).copy_(a * std::cos(angle) - b * std::sin(angle));
      y[t].select(-1, 2 * i + 1).copy_(b * std::cos(angle) + a * std::sin(angle));
    }
  return y;
}

// One document by the formulas of the paper.
at::Tensor plain(const Inputs& in, const at::Tensor& kv_b, const MlaOptions& o, double theta) {
  const int64_t tokens = in.q.size(0);
  const at::Tensor q = in.q.view({tokens, o.heads, o.nope + o.rope});
  const at::Tensor kv = in.latent.matmul(kv_b.t()).view({tokens, o.heads, o.nope + o.v_dim});
  const at::Tensor scores =
      at::einsum("qhd,khd->hqk", {q.narrow(2, 0, o.nope), kv.narrow(2, 0, o.nope)}) +
      at::einsum("qhd,kd->hqk",
                 {turned(q.narrow(2, o.nope, o.rope), theta), turned(in.k_rope, theta)});
  const at::Tensor hidden = at::ones({tokens, tokens}, at::kBool).triu(1);
  return at::einsum("hqk,khd->qhd", {scores.mul(o.scale).masked_fill(hidden, -INFINITY).softmax(-1),
                                     kv.narrow(2, o.nope, o.v_dim)})
      .reshape({tokens, -1});
}

TEST(Mla, IsThePapersFormula) {
  for (const MlaOptions& o :
       {MlaOptions{3, 5, 4, 2, 0.4}, {1, 1, 2, 7, 1.1}, {2, 128, 64, 128, 0.07}}) {
    const int64_t tokens = 37, rank = 6;
    Unit unit("u", at::kDouble);
    Weights weights("", unit);
    Weight& kv_b = weights.add("kv_b", {o.heads * (o.nope + o.v_dim), rank});
    unit.bind(random({unit.layout().numel}, 3));
    const Inputs in{random({tokens, o.heads * (o.nope + o.rope)}, 1), random({tokens, rank}, 2),
                    random({tokens, o.rope}, 4)};
    Tape tape;
    const at::Tensor out =
        mla(tape, tape.input(in.q), tape.input(in.latent), tape.input(in.k_rope), kv_b,
            rows_of({tokens}), ops::rotary_table(tokens, o.rope, {.theta = 50}, at::kDouble), o, 0)
            .data;
    EXPECT_LE(out.sub(plain(in, kv_b.data(), o, 50)).abs().max().item().toDouble(), 1e-13);
  }
}

// Queries, latents and the shared rotary key, not the keys and values of the heads; 8 bytes an
// element.
TEST(Mla, KeepsItsLatents) {
  constexpr int64_t tokens = 10, rank = AttentionLayer::kRank;
  const MlaOptions o = AttentionLayer::kLatent;
  LayerCase c(kinds(1).back(), tokens);
  Tape tape;
  c.layer(tape, tape.input(random({tokens, kHidden}, 1)), rows_of({tokens}));
  const std::map<std::string, int64_t> want{
      {"other", 8 * tokens * kHidden},
      {"qkv", 8 * tokens * (o.heads * (o.nope + o.rope) + rank + o.rope)},
      {"norm", 8 * tokens * rank},
      {"attention", 8 * tokens * o.heads * o.v_dim},
      {"statistics", 8 * tokens * (1 + o.heads)}};
  EXPECT_EQ(tape.saved_bytes(), want);
}

// What generation holds of a token: kv_rank + rope elements, whatever the number of heads.
TEST(Mla, TheCacheHoldsLatentsAndOneRotatedKey) {
  const MlaOptions o = AttentionLayer::kLatent;
  LayerCase c(kinds(1).back(), 10);
  KvCache cache(1);
  Rows rows = rows_of({4});
  rows.cache = &cache;
  Tape tape(false);
  c.layer(tape, tape.input(random({4, kHidden}, 1)), rows);
  const at::Tensor none = at::zeros({0, 1, AttentionLayer::kRank}, at::kDouble);
  const auto seen = cache.append(0, none, at::zeros({0, 1, o.rope}, at::kDouble));
  EXPECT_EQ(seen.k.sizes(), (std::vector<int64_t>{4, 1, AttentionLayer::kRank}));
  EXPECT_EQ(seen.v.sizes(), (std::vector<int64_t>{4, 1, o.rope}));
}

}  // namespace
}  // namespace conclave::nn
