#include "models/frame.h"

#include <algorithm>
#include <cmath>

#include "models/rope.h"

namespace conclave::models {
namespace {

// All that transformers takes for the number of experts; the family's own first, as it is named
// where it is missing.
std::vector<std::string> names_of_experts(const char* own) {
  return {own, "num_local_experts", "num_experts", "n_routed_experts"};
}

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
      experts(k.count(names_of_experts(otherwise.experts))),
      top_k(k.count({"num_experts_per_tok"})),
      ffn(k.count({otherwise.ffn})),
      padding(read_padding(k, vocab)),
      eps(k.number({"rms_norm_eps"}, otherwise.eps)),
      initializer_range(k.number({"initializer_range"}, 0.02)),
      aux_coef(k.number({"router_aux_loss_coef"}, otherwise.aux_coef)),
      sequence_aux_coef(k.number({"aux_loss_alpha"}, 0)),
      z_coef(std::max(options.z_coef, 0.0)),
      share(options.share),
      device(options.device),
      tied(k.flag("tie_word_embeddings", false)),
      biases(k.flag("attention_bias", otherwise.biases)),
      renormalise(k.flag("norm_topk_prob", otherwise.renormalise)),
      mtp_made(options.mtp) {
  if (options.aux_coef >= 0) aux_coef = options.aux_coef;
  if (options.sequence_aux_coef >= 0) sequence_aux_coef = options.sequence_aux_coef;
  if (heads % kv_heads)
    k.refuse("num_key_value_heads", "expected a divisor of num_attention_heads");
  const std::string experts_key = k.given(names_of_experts(otherwise.experts));
  if (top_k > experts)
    k.refuse("num_experts_per_tok",
             "expected at most " + experts_key + " = " + std::to_string(experts));
  if (!(eps > 0)) k.refuse("rms_norm_eps", "expected a number above 0");
  if (experts % share.expert_ranks)
    k.refuse(experts_key, "expected a multiple of the " + std::to_string(share.expert_ranks) +
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

nn::RouterOptions Frame::router(int layer) const {
  return {.top_k = top_k,
          .renormalise = renormalise,
          .aux_coef = aux_coef,
          .sequence_aux_coef = sequence_aux_coef,
          .z_coef = z_coef,
          .layer = layer};
}

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
  const auto table = ops::rotary_table(max_positions, dim, read_rope(k, otherwise), dtype);
  return {table.cos.to(device), table.sin.to(device)};
}

}  // namespace conclave::models
