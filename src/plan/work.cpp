#include "plan/work.h"

namespace conclave::plan {
namespace {

using Parts = std::map<std::string, Work>;

// Elements a token that the parts of one layer move, and products that lie in them.
void add_layer(Parts& parts, const LayerShape& l, const ModelShape& model, const TrainingRun& run,
               double e) {
  const auto again = [&](const char* c) { return run.recompute.count(c) ? 1.0 : 0.0; };
  const auto h = static_cast<double>(model.hidden), q = static_cast<double>(l.query_width()),
             kv = static_cast<double>(l.kv_heads * l.head_dim),
             k = static_cast<double>(l.experts ? l.top_k : 0), f = static_cast<double>(l.ffn),
             latents = static_cast<double>(l.mla.q_rank + l.mla.kv_rank);
  // A norm reads and writes a row, and two rows and one in the backward.
  parts["norms and rotary"].bytes += (5 + 2 * again("norm")) * (2 * h + latents) * e;
  if (!l.mla.kv_rank) parts["norms and rotary"].bytes += (5 + 2 * again("rotary")) * (q + kv) * e;
  if (l.mla.kv_rank) {  // keys and values of the heads are made where they are used
    const auto product =
        static_cast<double>(6 * l.mla.kv_rank * l.heads * (l.mla.nope + l.mla.v_dim));
    parts["attention"].products += product;
    parts["projections"].products -= product;
  }
  if (!l.experts) return;
  const double received = run.received > 0 ? run.received : 1;
  // Rows to the experts and back, each with its transpose in the backward.
  parts["dispatch"].bytes += (2 + again("dispatch")) * (received + k) * h * e;
  parts["combine"].bytes += 2 * (received + k) * h * e;
  if (run.received > 0) {
    parts["dispatch, stand-in"].bytes += 2 * (received + 1) * h * e;
    parts["combine, stand-in"].bytes += 2 * (received + 1) * h * e;
  }
  // The forward of the activation is part of fc1.
  parts["activation"].bytes += (5 + 3 * again("swiglu")) * k * f * e;
  parts["router"].products += 6 * h * static_cast<double>(l.experts);
  const auto experts = 6 * h * f * k;
  parts["fc1"].products += 2 * experts;
  parts["fc2"].products += experts;
}

}  // namespace

Parts work_by_part(const ModelShape& model, const TrainingRun& run, int64_t seq, int64_t rows) {
  const ElementBytes bytes = element_bytes(run.precision);
  const auto e = static_cast<double>(bytes.weight), tokens = static_cast<double>(seq * rows),
             grad = static_cast<double>(run.grad_bytes ? run.grad_bytes : bytes.wide),
             moment = static_cast<double>(run.moment_bytes ? run.moment_bytes : bytes.wide);
  const Flops flops = flops_per_token(model, seq);
  Parts parts;
  parts["projections"].products = static_cast<double>(flops.projections);
  parts["attention"].scores = static_cast<double>(flops.scores);
  if (flops.shared) parts["shared experts"].products = static_cast<double>(flops.shared);
  if (flops.dense) parts["dense layers"].products = static_cast<double>(flops.dense);
  if (model.ends) {
    parts["head and loss"].products = static_cast<double>(flops.head);
    parts["head and loss"].bytes = 2 * static_cast<double>(model.vocab) * e;  // the softmax pass
  }
  for (const LayerShape& l : model.layers) add_layer(parts, l, model, run, e);
  for (auto& [name, work] : parts)
    work.products *= tokens, work.scores *= tokens, work.bytes *= tokens;

  const Parameters p = parameters(model);
  const auto all = static_cast<double>(p.total),
             updated = static_cast<double>((p.total - p.experts) / run.dense_shards + p.experts),
             master = static_cast<double>(run.master ? bytes.master : 0);
  parts["optimizer"].bytes = updated * (2 * (e + master + 2 * moment) + grad);
  parts["zero gradients"].bytes = all * grad;
  return parts;
}

}  // namespace conclave::plan
