#include "models/frame.h"

#include <algorithm>
#include <cmath>

#include "models/rope.h"

namespace conclave::models {
namespace {

// torch.nn.Embedding's padding_idx: negative ones count from the end of the vocabulary.
int64_t read_padding(const Keys& k, int64_t vocab) {
  const auto* v = k.find({"pad_token_id"});
  if (!v) return -1;
  if (!v->is_number_integer() || v->get<int64_t>() < -vocab || v->get<int64_t>() >= vocab)
    k.refuse("pad_token_id",
             "expected a token below vocab_size = " + std::to_string(vocab) + ", got " + v->dump());
  return (v->get<int64_t>() + vocab) % vocab;
}

}  // namespace

Frame::Frame(const Keys& k, const DecoderOptions& options, const Defaults& otherwise)
    : hidden(k.count({"hidden_size"})),
      layers(k.count({"num_hidden_layers"})),
      vocab(k.count({"vocab_size"})),
      heads(k.count({"num_attention_heads"})),
      kv_heads(k.count({"num_key_value_heads"}, otherwise.kv_heads ? otherwise.kv_heads : heads)),
      head_dim(k.count({"head_dim"}, otherwise.head_dim ? otherwise.head_dim
                                                        : std::max<int64_t>(hidden / heads, 1))),
      max_positions(k.count({"max_position_embeddings"}, otherwise.max_positions)),
      experts(k.count({"num_local_experts", "num_experts", "n_routed_experts"})),
      top_k(k.count({"num_experts_per_tok"})),
      ffn(k.count({otherwise.ffn})),
      padding(read_padding(k, vocab)),
      eps(k.number({"rms_norm_eps"}, otherwise.eps)),
      initializer_range(k.number({"initializer_range"}, 0.02)),
      aux_coef(k.number({"router_aux_loss_coef", "aux_loss_alpha"}, otherwise.aux_coef)),
      share(options.share),
      tied(k.flag("tie_word_embeddings", false)),
      biases(k.flag("attention_bias", otherwise.biases)),
      renormalise(k.flag("norm_topk_prob", otherwise.renormalise)),
      mtp_made(options.mtp) {
  if (options.aux_coef >= 0) aux_coef = options.aux_coef;
  if (heads % kv_heads)
    k.refuse("num_key_value_heads", "expected a divisor of num_attention_heads");
  if (top_k > experts)
    k.refuse("num_experts_per_tok", "expected at most num_experts = " + std::to_string(experts));
  if (!(eps > 0)) k.refuse("rms_norm_eps", "expected a number above 0");
  if (experts % share.expert_ranks)
    k.refuse("num_experts", "expected a multiple of the " + std::to_string(share.expert_ranks) +
                                " ranks that share them, got " + std::to_string(experts));
  if (k.text({"hidden_act"}, "silu") != "silu")
    k.refuse("hidden_act", "expected silu; others are not supported");
  if (k.number({"attention_dropout"}, 0) != 0)
    k.refuse("attention_dropout", "expected 0; dropout is not supported");
}

nn::Weight* Frame::bias(nn::Weights& w, const std::string& name, int64_t width) const {
  return biases ? &w.add(name, {width}) : nullptr;
}

void Frame::check_groups(const Keys& k, int64_t groups, int64_t top_groups) const {
  if (groups > 1 && (experts % groups || experts / groups < 2))
    k.refuse("n_group", "expected equal groups of at least 2 of the " + std::to_string(experts) +
                            " experts, got " + std::to_string(groups) + " groups");
  if (top_groups > groups)
    k.refuse("topk_group", "expected at most n_group = " + std::to_string(groups));
  if (const int64_t most = top_groups * (experts / groups); top_k > most)
    k.refuse("num_experts_per_tok",
             "expected at most the " + std::to_string(most) + " experts of topk_group groups");
}

double Frame::scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }

nn::LayerFacts Frame::facts() const {
  nn::LayerFacts f;
  f.heads = heads, f.kv_heads = kv_heads, f.head_dim = head_dim;
  f.attention_biases = biases;
  f.experts = experts, f.top_k = top_k, f.ffn = ffn;
  return f;
}

ops::RotaryTable Frame::rotary(const Keys& k, int64_t dim, const ops::RopeConfig& otherwise,
                               at::ScalarType dtype) const {
  if (dim % 2)
    k.refuse("head_dim", "expected an even number (rotary pairs), got " + std::to_string(dim));
  return ops::rotary_table(max_positions, dim, read_rope(k, otherwise), dtype);
}

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
