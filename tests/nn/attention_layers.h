// Whole attention layers of every kind, for one list of documents and one list of tests.
#pragma once
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>

#include <tuple>
#include <vector>

#include "nn/attention.h"
#include "nn/layer_testing.h"
#include "nn/linear.h"
#include "nn/mla.h"
#include "nn/norm.h"

namespace conclave::nn::testing {

struct Kind {
  const char* name;
  int64_t window;
  bool sinks, head_norms, latents;
};

// Every kind of layer, those with a window with this one.
inline std::vector<Kind> kinds(int64_t window) {
  return {{"grouped queries", 0, false, true, false},
          {"a window", window, false, false, false},
          {"sinks", 0, true, false, false},
          {"a window and sinks", window, true, true, false},
          {"latents", 0, false, false, true}};
}

inline Rows rows_of(const std::vector<int64_t>& lengths) {
  Rows rows;
  std::vector<at::Tensor> positions{at::arange(0, at::kLong)};
  rows.doc_offsets = {0};
  for (int64_t length : lengths) {
    positions.push_back(at::arange(length, at::kLong));
    rows.doc_offsets.push_back(rows.doc_offsets.back() + length);
  }
  rows.positions = at::cat(positions);
  return rows;
}

inline constexpr int64_t kHidden = 5;

// x [tokens, kHidden] → projections, rotary, attention, projection → [tokens, kHidden].
class AttentionLayer {
 public:
  // `positions`: how many the rotary table knows.
  AttentionLayer(Weights& w, const Kind& kind, int64_t positions)
      : kind_(kind),
        table_(ops::rotary_table(positions, kind.latents ? kLatent.rope : kDim, {.theta = 50},
                                 at::kDouble)) {
    const int64_t q_width = kind.latents ? kLatent.nope + kLatent.rope : kDim;
    q_ = &w.add("q.weight", {kHeads * q_width, kHidden});
    o_ = &w.add("o.weight", {kHidden, kHeads * (kind.latents ? kLatent.v_dim : kValue)});
    if (kind.latents) {
      kv_a_ = &w.add("kv_a.weight", {kRank + kLatent.rope, kHidden});
      kv_norm_ = &w.add("kv_norm.weight", {kRank});
      kv_b_ = &w.add("kv_b.weight", {kHeads * (kLatent.nope + kLatent.v_dim), kRank});
      return;
    }
    k_ = &w.add("k.weight", {kKvHeads * kDim, kHidden});
    v_ = &w.add("v.weight", {kKvHeads * kValue, kHidden});
    if (kind.head_norms) q_norm_ = &w.add("q_norm", {kDim}), k_norm_ = &w.add("k_norm", {kDim});
    if (kind.sinks) sinks_ = &w.add("sinks", {kHeads});
  }

  Value operator()(Tape& t, const Value& x, const Rows& rows) const {
    Value q = linear(t, x, *q_, nullptr, "qkv");
    if (kind_.latents) {
      auto [latent, k_rope] = split(t, linear(t, x, *kv_a_, nullptr, "qkv"), kRank);
      return linear(
          t,
          mla(t, q, rms_norm(t, latent, *kv_norm_, 1e-6), k_rope, *kv_b_, rows, table_, kLatent, 0),
          *o_);
    }
    Value k = linear(t, x, *k_, nullptr, "qkv"), v = linear(t, x, *v_, nullptr, "qkv");
    if (kind_.head_norms) {
      std::tie(q, k) = head_norm_rotary(t, q, k, *q_norm_, *k_norm_, 1e-6, rows, table_);
    } else {
      q = rotary(t, q, kHeads, rows, table_);
      k = rotary(t, k, kKvHeads, rows, table_);
    }
    return linear(t, attention(t, q, k, v, rows, {0.6, kind_.window, sinks_}, 0), *o_);
  }

  static constexpr int64_t kHeads = 4, kKvHeads = 2, kDim = 6, kValue = 3, kRank = 4;
  static constexpr MlaOptions kLatent{
      .heads = kHeads, .nope = 3, .rope = 2, .v_dim = 5, .scale = 0.6};

 private:
  Kind kind_;
  ops::RotaryTable table_;
  Weight *q_, *o_, *k_ = nullptr, *v_ = nullptr, *q_norm_ = nullptr, *k_norm_ = nullptr,
                   *sinks_ = nullptr, *kv_a_ = nullptr, *kv_norm_ = nullptr, *kv_b_ = nullptr;
};

// A layer, its weights and what a run over some documents gives.
struct LayerCase : Case {
  LayerCase(const Kind& kind, int64_t positions) : layer(weights, kind, positions) { fill(); }

  struct Result {
    at::Tensor out, dx, dweights;
  };
  // Of the loss Σ output · seed.
  Result run_on(const at::Tensor& x, const at::Tensor& seed, const Rows& rows,
                std::set<std::string> recompute = {}) {
    dense.grad().zero_();
    Tape tape(true, std::move(recompute));
    const Value in = tape.input(x), out = layer(tape, in, rows);
    tape.seed(out, seed);
    tape.run_backward();
    tape.run_weight_gradients();
    return {out.data, tape.take_grad(in), dense.grad().clone()};
  }

  AttentionLayer layer;
};

}  // namespace conclave::nn::testing
