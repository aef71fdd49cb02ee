#include "plan/shape.h"

#include <stdexcept>
#include <string>

namespace conclave::plan {
namespace {

int64_t attention_weights(const LayerShape& l, int64_t hidden) {  // q, k, v, o
  return hidden * l.head_dim * (l.heads + 2 * l.kv_heads) + l.heads * l.head_dim * hidden;
}

int64_t small_weights(const LayerShape& l, int64_t hidden) {  // norms and biases
  int64_t n = 2 * hidden;
  if (l.head_norms) n += 2 * l.head_dim;
  if (l.attention_biases) n += l.head_dim * (l.heads + 2 * l.kv_heads) + hidden;
  return n;
}

// Gate, up and down of `width` in all: of the dense layer or the shared expert, and of n experts.
int64_t swiglu_weights(int64_t hidden, int64_t width) { return 3 * hidden * width; }

int64_t feed_forward_weights(const LayerShape& l, int64_t hidden, int64_t experts) {
  return swiglu_weights(hidden, l.dense_ffn + l.shared_ffn + experts * l.ffn);
}

int64_t layer_parameters(const LayerShape& l, int64_t hidden, int64_t experts) {
  return attention_weights(l, hidden) + small_weights(l, hidden) + hidden * l.experts +
         feed_forward_weights(l, hidden, experts);
}

}  // namespace

void check(const ModelShape& model) {
  const auto fail = [](const std::string& what) { throw std::logic_error("model shape: " + what); };
  if (model.vocab < 1 || model.hidden < 1) fail("expected vocab and hidden of at least 1");
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerShape& l = model.layers[i];
    const std::string layer = "layer " + std::to_string(i) + ": ";
    if (l.heads < 1 || l.kv_heads < 1 || l.head_dim < 1 || l.heads % l.kv_heads != 0)
      fail(layer + "expected heads a multiple of kv_heads, all sizes at least 1");
    if ((l.dense_ffn > 0) == (l.experts > 0))
      fail(layer + "expected either dense_ffn or experts above 0");
    if (l.experts > 0 && (l.ffn < 1 || l.top_k < 1 || l.top_k > l.experts))
      fail(layer + "expected ffn of at least 1 and top_k in 1 … experts");
  }
}

Parameters parameters(const ModelShape& model) {
  check(model);
  Parameters p;
  p.total = model.vocab * model.hidden * (model.tied ? 1 : 2) + model.hidden;
  p.active = p.total;
  for (const LayerShape& l : model.layers) {
    p.total += layer_parameters(l, model.hidden, l.experts);
    p.active += layer_parameters(l, model.hidden, l.top_k);
  }
  return p;
}

int64_t flops_per_token(const ModelShape& model, int64_t seq) {
  check(model);
  int64_t products = model.hidden * model.vocab;  // multiply-adds of the forward
  for (const LayerShape& l : model.layers)
    products += attention_weights(l, model.hidden) +
                l.heads * l.head_dim * seq +  // scores and values, each over seq / 2 keys
                feed_forward_weights(l, model.hidden, l.top_k);
  return 6 * products;
}

}  // namespace conclave::plan
