#include "models/frame.h"

namespace conclave::models {
namespace {

using MakeFacts = std::function<nn::LayerFacts(int)>;
using MakeBlock = std::function<std::unique_ptr<nn::Block>(int, nn::Weights)>;

nn::Layer make_layer(nn::Decoder& d, int i, at::ScalarType dtype, const MakeFacts& facts,
                     const MakeBlock& block) {
  const std::string unit = "layers." + std::to_string(i);
  nn::Layer layer;
  layer.name = "model." + unit;
  layer.facts = facts(i);
  layer.dense = &d.add_unit(unit + ".dense", dtype);
  if (layer.facts.experts > 0) layer.experts = &d.add_unit(unit + ".experts", dtype);
  if (layer.facts.correction_bias)
    layer.router = &d.add_unit(unit + ".router", dtype, /*trained=*/false);
  layer.block = block(i, nn::Weights(layer.name + ".", *layer.dense, layer.experts, layer.router));
  return layer;
}

// Published checkpoints hold copies of the embedding and of the head beside each module; where the
// modules are not made, all that is theirs is read past.
void add_mtp(nn::Decoder& d, const Frame& frame, int i, at::ScalarType dtype,
             const MakeFacts& facts, const MakeBlock& block) {
  const std::string prefix = "model.layers." + std::to_string(i) + ".";
  if (!frame.mtp_made) {
    d.beside.push_back(prefix + "*");
    return;
  }
  nn::Mtp m;
  m.layer = make_layer(d, i, dtype, facts, block);
  nn::Weights w(prefix, *m.layer.dense);
  m.enorm = &w.add("enorm.weight", {d.hidden});
  m.hnorm = &w.add("hnorm.weight", {d.hidden});
  m.eh_proj = &w.add("eh_proj.weight", {d.hidden, 2 * d.hidden});
  m.norm = &w.add("shared_head.norm.weight", {d.hidden});
  d.copies.emplace_back(prefix + "embed_tokens.weight", d.embedding);
  d.copies.emplace_back(prefix + "shared_head.head.weight", d.head);
  d.mtp.push_back(std::move(m));
}

}  // namespace

nn::Decoder assemble(const Frame& frame, const std::string& model_type, at::ScalarType dtype,
                     const MakeFacts& facts, const MakeBlock& block) {
  nn::Decoder d;
  d.model_type = model_type;
  d.model_file = "src/models/" + model_type + ".cpp";
  d.vocab = frame.vocab, d.hidden = frame.hidden, d.max_positions = frame.max_positions;
  d.padding = frame.padding;
  d.norm_eps = frame.eps, d.initializer_range = frame.initializer_range, d.tied = frame.tied;
  d.share = frame.share;
  d.begin(dtype);
  const int layers = static_cast<int>(frame.layers);
  for (int i = 0; i < layers; ++i) d.layers.push_back(make_layer(d, i, dtype, facts, block));
  d.finish(dtype);
  for (int i = layers; i < layers + frame.mtp_modules; ++i)
    add_mtp(d, frame, i, dtype, facts, block);
  return d;
}

}  // namespace conclave::models
