// A small fp64 decoder whose router can be any: embedding, two layers of a linear, a router with
// four experts chosen from eight in four groups, and a head. For what no one model has all of.
#pragma once
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/router.h"
#include "parallel/tiny.h"

namespace conclave::parallel::testing {

inline constexpr int64_t kExperts = 8;

inline nn::RouterOptions router_options(nn::Scoring scoring) {
  nn::RouterOptions o{.scoring = scoring, .top_k = 3, .scale = 1.5};
  if (scoring == nn::Scoring::sigmoid) o.groups = 4, o.top_groups = 2;
  return o;
}

class RoutedBlock : public nn::Block {
 public:
  static constexpr int64_t kHidden = 12, kFfn = 5;

  RoutedBlock(nn::RouterOptions o, nn::Weights w)
      : options_(o),
        mix_(w.add("mix.weight", {kHidden, kHidden})),
        norm_(w.add("norm.weight", {kHidden})),
        gate_(w.add("gate.weight", {kExperts, kHidden})),
        up_(w.add_experts("experts.{}.{gate_proj,up_proj}.weight", {kExperts, 2 * kFfn, kHidden})),
        down_(w.add_experts("experts.{}.down_proj.weight", {kExperts, kHidden, kFfn})) {
    if (o.scoring == nn::Scoring::top_k_then_softmax)
      options_.bias = &w.add("gate.bias", {kExperts});
    if (o.scoring == nn::Scoring::sigmoid)
      options_.correction_bias = &w.add_buffer("gate.e_score_correction_bias", {kExperts});
  }
  nn::Value mix(nn::Tape& t, const nn::Value& x, const nn::Rows&) override {
    return nn::add(t, x, nn::linear(t, x, mix_));
  }
  bool has_experts() const override { return true; }
  nn::Routed route(nn::Tape& t, const nn::Value& h, const nn::Rows& rows) override {
    return nn::route(t, nn::rms_norm(t, h, norm_, 1e-6), gate_, rows, options_);
  }
  nn::Value experts(nn::Tape& t, const nn::Received& r) override {
    nn::Value up = nn::grouped_linear(t, r.rows, up_, r.offsets, "gate_up");
    return nn::grouped_linear(t, nn::swiglu(t, up, &r.weights), down_, r.offsets, "experts_out");
  }
  nn::Value join(nn::Tape& t, const nn::Value& h, const nn::Value& combined) override {
    return nn::add(t, h, combined);
  }
  nn::Value feed_forward(nn::Tape&, const nn::Value& h) override { return h; }
  nn::Weight* correction_bias() override { return options_.correction_bias; }

 private:
  nn::RouterOptions options_;
  nn::Weight &mix_, &norm_, &gate_, &up_, &down_;
};

inline nn::Decoder make_routed(nn::RouterOptions o, at::ScalarType dtype = at::kDouble) {
  nn::Decoder d;
  d.vocab = kVocab, d.hidden = RoutedBlock::kHidden, d.max_positions = 16, d.norm_eps = 1e-6;
  d.begin(dtype);
  for (int i = 0; i < 2; ++i) {
    nn::Layer layer;
    layer.name = "model.layers." + std::to_string(i);
    const std::string unit = "layers." + std::to_string(i);
    layer.dense = &d.add_unit(unit + ".dense", dtype);
    layer.experts = &d.add_unit(unit + ".experts", dtype);
    if (o.scoring == nn::Scoring::sigmoid)
      layer.router = &d.add_unit(unit + ".router", dtype, /*trained=*/false);
    o.layer = i;
    layer.block = std::make_unique<RoutedBlock>(
        o, nn::Weights(layer.name + ".", *layer.dense, layer.experts, layer.router));
    layer.facts.experts = kExperts, layer.facts.top_k = o.top_k,
    layer.facts.ffn = RoutedBlock::kFfn;
    d.layers.push_back(std::move(layer));
  }
  d.finish(dtype);
  return d;
}

// Some of them negative; another set for each layer and `seed`.
inline void fill_correction_biases(nn::Decoder& decoder, int seed = 0) {
  for (size_t i = 0; i < decoder.layers.size(); ++i)
    if (nn::Weight* bias = decoder.layers[i].block->correction_bias())
      for (int64_t e = 0; e < kExperts; ++e) {
        const auto phase = static_cast<double>(e + 5 * seed) + 3.0 * static_cast<double>(i);
        bias->data()[e].fill_(0.6 * std::sin(2.3 * phase) - 0.3);
      }
}

// One rank with such a decoder, from the same bits each time.
struct RoutedModel {
  explicit RoutedModel(nn::RouterOptions o, UnitsOptions options = {},
                       at::ScalarType dtype = at::kDouble)
      : decoder(make_routed(o, dtype)), comm(comm::single()), units(decoder, *comm, options) {
    initialise(units, 5, 0.4);
    fill_correction_biases(decoder);
  }
  std::vector<at::Tensor> gradients() {
    std::vector<at::Tensor> out;
    for (auto& s : units.shards())
      if (s.unit->trained()) out.push_back(s.grad.clone());
    return out;
  }

  nn::Decoder decoder;
  std::unique_ptr<comm::Comm> comm;
  Units units;
  comm::LocalDispatcher dispatcher;
};

}  // namespace conclave::parallel::testing
