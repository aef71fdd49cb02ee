#include "plan/shape.h"

#include <stdexcept>
#include <string>

namespace conclave::plan {
namespace {

int64_t attention_weights(const LayerShape& l, int64_t hidden) {  // the projections
  const MlaShape& a = l.mla;
  if (a.kv_rank == 0)
    return hidden * l.head_dim * (l.heads + 2 * l.kv_heads) + l.heads * l.head_dim * hidden;
  const int64_t queries =
      a.q_rank ? a.q_rank * (hidden + l.query_width()) : hidden * l.query_width();
  return queries + hidden * (a.kv_rank + a.rope) + a.kv_rank * l.heads * (a.nope + a.v_dim) +
         l.heads * a.v_dim * hidden;
}

int64_t attention_small_weights(const LayerShape& l, int64_t hidden) {  // norms, biases, sinks
  int64_t n = l.sinks ? l.heads : 0;
  if (l.mla.kv_rank) {
    n += l.mla.q_rank + l.mla.kv_rank;
    if (l.attention_biases) n += l.mla.q_rank + l.mla.kv_rank + l.mla.rope + hidden;
    return n;
  }
  if (l.head_norms) n += 2 * l.head_dim;
  if (l.whole_norms) n += l.head_dim * (l.heads + l.kv_heads);
  if (l.attention_biases) n += l.head_dim * (l.heads + 2 * l.kv_heads) + hidden;
  return n;
}

// Gate, up and down of `width` in all: of the dense layer or the shared expert, and of n experts.
int64_t swiglu_weights(int64_t hidden, int64_t width) { return 3 * hidden * width; }

int64_t expert_parameters(const LayerShape& l, int64_t hidden, int64_t experts) {
  return experts * (swiglu_weights(hidden, l.ffn) + (l.expert_biases ? 2 * l.ffn + hidden : 0));
}

// All of a layer but its experts.
int64_t layer_parameters(const LayerShape& l, int64_t hidden) {
  return attention_weights(l, hidden) + attention_small_weights(l, hidden) + 2 * hidden +
         hidden * l.experts + (l.router_bias ? l.experts : 0) +
         swiglu_weights(hidden, l.dense_ffn + l.shared_ffn);
}

// Two norms and the projection of [hidden, embedding] in front of its layer, a norm behind it.
int64_t mtp_parameters(int64_t hidden) { return 3 * hidden + 2 * hidden * hidden; }

// Multiply-adds of scores and values for one token of a row, times the row's length.
int64_t scores_of_row(const LayerShape& l, int64_t seq) {
  const int64_t a_pair = l.query_width() + l.value_width();
  if (l.window == 0 || l.window >= seq) return a_pair * seq * seq / 2;
  return a_pair * (l.window * (l.window + 1) / 2 + (seq - l.window) * l.window);
}

void check_attention(const LayerShape& l, const std::string& layer) {
  const auto fail = [&](const char* what) {
    throw std::logic_error("model shape: " + layer + what);
  };
  const MlaShape& a = l.mla;
  if (a.kv_rank > 0) {
    if (l.heads < 1 || l.kv_heads || l.head_dim || a.nope < 1 || a.rope < 1 || a.v_dim < 1)
      fail("expected heads and all sizes of mla at least 1, no kv_heads and head_dim beside it");
  } else if (l.heads < 1 || l.kv_heads < 1 || l.head_dim < 1 || l.heads % l.kv_heads != 0) {
    fail("expected heads a multiple of kv_heads, all sizes at least 1");
  }
}

}  // namespace

void check(const ModelShape& model) {
  const auto fail = [](const std::string& what) { throw std::logic_error("model shape: " + what); };
  if (model.vocab < 1 || model.hidden < 1) fail("expected vocab and hidden of at least 1");
  for (size_t i = 0; i < model.layers.size() + model.mtp.size(); ++i) {
    const size_t beyond = i - model.layers.size();
    const LayerShape& l = i < model.layers.size() ? model.layers[i] : model.mtp[beyond];
    const std::string layer = "layer " + std::to_string(i) + ": ";
    check_attention(l, layer);
    if ((l.dense_ffn > 0) == (l.experts > 0))
      fail(layer + "expected either dense_ffn or experts above 0");
    if (l.experts > 0 && (l.ffn < 1 || l.top_k < 1 || l.top_k > l.experts))
      fail(layer + "expected ffn of at least 1 and top_k in 1 … experts");
    if (model.expert_ranks < 1 || l.experts % model.expert_ranks)
      fail(layer + "expected experts a multiple of expert_ranks");
  }
}

Parameters parameters(const ModelShape& model) {
  check(model);
  Parameters p;
  if (model.ends) p.total = model.vocab * model.hidden * (model.tied ? 1 : 2) + model.hidden;
  p.active = p.total;
  for (const LayerShape& l : model.layers) {
    const int64_t rest = layer_parameters(l, model.hidden),
                  experts = expert_parameters(l, model.hidden, l.experts / model.expert_ranks);
    p.total += rest + experts;
    p.experts += experts;
    p.active += rest + expert_parameters(l, model.hidden, l.top_k);
    p.untrained += l.correction_bias ? l.experts : 0;
  }
  for (const LayerShape& l : model.mtp) {
    const int64_t experts = expert_parameters(l, model.hidden, l.experts / model.expert_ranks);
    p.mtp += mtp_parameters(model.hidden) + layer_parameters(l, model.hidden) + experts;
    p.mtp_experts += experts;
    p.untrained += l.correction_bias ? l.experts : 0;
  }
  return p;
}

Flops flops_per_token(const ModelShape& model, int64_t seq) {
  check(model);
  // Multiply-adds of the forward, times seq: a window's pairs are whole only over a row.
  const auto of_layer = [&](const LayerShape& l) {
    Flops f;
    f.projections = attention_weights(l, model.hidden) * seq;
    f.scores = scores_of_row(l, seq);
    f.experts = swiglu_weights(model.hidden, l.top_k * l.ffn) * seq;
    f.shared = swiglu_weights(model.hidden, l.shared_ffn) * seq;
    f.dense = swiglu_weights(model.hidden, l.dense_ffn) * seq;
    return f;
  };
  const int64_t head = model.hidden * model.vocab * seq;
  Flops sum;
  for (const LayerShape& l : model.layers) {
    const Flops f = of_layer(l);
    sum.projections += f.projections, sum.scores += f.scores;
    sum.experts += f.experts, sum.shared += f.shared, sum.dense += f.dense;
  }
  if (model.ends) sum.head = head;
  for (const LayerShape& l : model.mtp)
    sum.mtp += of_layer(l).total() + 2 * model.hidden * model.hidden * seq + head;
  for (int64_t* f :
       {&sum.projections, &sum.scores, &sum.experts, &sum.shared, &sum.dense, &sum.head, &sum.mtp})
    *f = (6 * *f + seq / 2) / seq;
  return sum;
}

}  // namespace conclave::plan
