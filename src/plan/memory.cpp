#include "plan/memory.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "base/human.h"

namespace conclave::plan {
namespace {

using Bytes = std::map<std::string, int64_t>;

constexpr int64_t kGpuWorkspaces = int64_t{64} << 20;  // of cuBLAS and cuBLASLt

void add_attention(Bytes& b, const LayerShape& l, const ElementBytes& e) {
  const int64_t q = l.query_width(), kv = l.kv_heads * l.head_dim;
  const MlaShape& a = l.mla;
  if (a.kv_rank) {
    b["norm"] += (a.q_rank + a.kv_rank) * e.weight;
    b["statistics"] += (a.q_rank ? 2 : 1) * e.wide;
    b["qkv"] = (q + a.q_rank + a.kv_rank + a.rope) * e.weight;
    b["rotary"] = 0;
  } else {
    const int64_t norms = l.head_norms ? l.heads + l.kv_heads : l.whole_norms ? 2 : 0;
    b["statistics"] += norms * e.wide;
    b["qkv"] = (kv + (norms ? q + kv : 0)) * e.weight;
    b["rotary"] = (q + kv) * e.weight;
  }
  b["statistics"] += l.heads * e.wide;  // the log of each softmax's denominator
  b["attention"] = l.value_width() * e.weight;
}

// Of the way to the experts on a GPU, int32 but the ids; `ranks` > 0: with a receive buffer.
int64_t gpu_layout(const LayerShape& l, int64_t ranks) {
  const int64_t rows = l.experts ? l.top_k : 0;
  return rows * 8 + 2 * rows * 4 +
         (rows && ranks ? (2 * rows + 2 * std::min(rows, ranks) + 1) * 4 : 0);
}

Bytes saved_without_recompute(const LayerShape& l, int64_t hidden, const ElementBytes& e) {
  const int64_t rows = l.experts ? l.top_k : 0;  // routed rows a token
  Bytes b;
  b["residual"] = 2 * hidden * e.weight;
  b["norm"] = 2 * hidden * e.weight;
  b["statistics"] = 2 * e.wide;  // 1/√ of both norms
  add_attention(b, l, e);
  b["router"] = l.experts ? (l.experts + rows) * e.wide : 0;
  b["layout"] = 3 * rows * 8;  // ids, and the row of each pair and back, int64
  b["dispatch"] = rows * hidden * e.weight;
  const int64_t width = l.dense_ffn + rows * l.ffn + l.shared_ffn;
  b["gate_up"] = 2 * width * e.weight;
  b["swiglu"] = width * e.weight;
  return b;
}

const std::vector<std::string>& recipes_in_order() {  // classes that nn/ can make again
  static const std::vector<std::string> classes{"norm",     "qkv",     "rotary", "attention",
                                                "dispatch", "gate_up", "swiglu"};
  return classes;
}

// What is alive beside saved tensors while the backward of a layer's largest segment runs:
// gradients (a product's dy lives on in its weight-gradient task) and what is made again there.
int64_t scratch_per_token(const LayerShape& l, int64_t hidden, const ElementBytes& e,
                          const std::set<std::string>& recompute) {
  const Bytes saved = saved_without_recompute(l, hidden, e);
  const auto again = [&](std::initializer_list<const char*> classes) {
    int64_t bytes = 0;
    for (const char* c : classes)
      if (recompute.count(c)) bytes += saved.at(c);
    return bytes;
  };
  const int64_t q = l.query_width(), a = l.value_width(),
                kv = l.mla.kv_rank ? q + a : 2 * l.kv_heads * l.head_dim,
                width = l.dense_ffn + l.top_k * l.ffn + l.shared_ffn;
  const int64_t rows = l.experts ? l.top_k : 1;
  // mix: gradient in and out, of o's input, of q, k, v before and after rotary, of the norm (a sum
  // of two at a time). Latent attention: keys and values of all heads, made again, and their
  // gradients.
  const int64_t mix =
      (5 * hidden + a + 2 * (q + kv)) * e.weight + again({"norm", "qkv", "rotary", "attention"});
  // feed-forward: the stream's gradient, that of both products' outputs and inputs
  const int64_t feed_forward = (2 * hidden + 2 * rows * hidden + 3 * width) * e.weight +
                               again({"dispatch", "gate_up", "swiglu"}) +
                               (l.experts ? 0 : again({"norm"}));
  return std::max(mix, feed_forward);
}

// The same on a GPU, for all tokens, in the order in which nn/experts.cpp lets go of tensors: at
// the activation's backward, at fc2's and at fc1's weight gradient, in the attention half after all
// that the experts saved is gone. `wide` is the gradient of the experts' rows [received, hidden],
// `narrow` of the activation's output [received, ffn].
int64_t gpu_scratch(const LayerShape& l, const ModelShape& model, const TrainingRun& run,
                    const ElementBytes& e) {
  const Bytes saved = saved_without_recompute(l, model.hidden, e);
  const auto again = [&](const char* c) { return run.recompute.count(c) ? saved.at(c) : 0; };
  const auto kept = [&](const char* c) { return run.recompute.count(c) ? 0 : saved.at(c); };
  const int64_t rows = l.experts ? l.top_k : 1, wide = rows * model.hidden * e.weight,
                narrow = (rows * l.ffn + l.dense_ffn) * e.weight, stream = model.hidden * e.weight;
  // Filled once more where the rows are dispatched again.
  const int64_t buffer = run.received > 0 && run.recompute.count("dispatch")
                             ? std::min(l.top_k, model.expert_ranks) * model.hidden * e.weight
                             : 0;
  // Of fc1, before it is added to the kept sum (ops/grouped_cuda.cpp); fc2's is half of it.
  const int64_t weight_gradient = std::min(
      l.experts / model.expert_ranks * 2 * l.ffn * model.hidden * e.weight, int64_t{256} << 20);
  const int64_t activation = stream + wide + 3 * narrow,
                fc2 = stream + 2 * wide + 2 * narrow + again("swiglu"),
                fc1 = stream + wide + 2 * narrow - kept("swiglu") + again("dispatch") +
                      again("norm") + buffer;
  const int64_t q = l.query_width(), a = l.value_width(),
                kv = l.mla.kv_rank ? q + a : 2 * l.kv_heads * l.head_dim;
  // cuDNN's fp32 sum of the queries' gradients; in deterministic mode the scores' gradient instead
  // (ops::cuda::kCudnnScores).
  const int64_t within =
      run.deterministic_row > 0 && l.window == 0
          ? std::min(2 * l.heads * run.tokens * run.deterministic_row, int64_t{1} << 30)
          : 4 * q * run.tokens;
  // Operands made again by latent attention, and gradients.
  const int64_t mix =
      (2 * model.hidden + a + (l.mla.kv_rank ? q + kv : 0) + q + 2 * kv) * e.weight +
      again("norm") + again("qkv") + again("rotary") + again("attention") - kept("dispatch") -
      kept("gate_up") - kept("swiglu");
  return std::max({activation * run.tokens, fc2 * run.tokens + weight_gradient / 2,
                   fc1 * run.tokens + weight_gradient, mix * run.tokens + within});
}

// On a GPU: a chunk of logits in the weights' type, with the normed states and their gradient.
int64_t gpu_head(const ModelShape& model, const TrainingRun& run, const ElementBytes& e) {
  constexpr int64_t most = int64_t{1} << 29;  // ops::kCudaLogits
  const int64_t chunks = (run.tokens * model.vocab + most - 1) / most,
                tokens = std::min(run.tokens, (run.tokens / chunks + 127) / 128 * 128);
  return (tokens * model.vocab + 2 * run.tokens * model.hidden) * e.weight;
}

int64_t logits_bytes(const ModelShape& model, const TrainingRun& run, const ElementBytes& e) {
  const int64_t tokens =
      std::clamp<int64_t>(run.max_logits / model.vocab, 1, std::max<int64_t>(run.tokens, 1));
  // Computed in the wide type; a narrower copy of their gradient for the products.
  return tokens * model.vocab * (e.wide + (e.weight < e.wide ? e.weight : 0));
}

}  // namespace

ElementBytes element_bytes(Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return {4, 0, 4};
    case Precision::fp64:
      return {8, 0, 8};
    case Precision::bf16:
      return {2, 2, 4};  // the master's low 16 bits
  }
  throw std::logic_error("element_bytes: no such precision");
}

std::map<std::string, int64_t> saved_bytes_per_token(const LayerShape& layer, int64_t hidden,
                                                     Precision precision,
                                                     const std::set<std::string>& recompute) {
  const ElementBytes e = element_bytes(precision);
  Bytes saved = saved_without_recompute(layer, hidden, e);
  // Without head norms rotary's backward does not need its input, but its recipe does.
  if (recompute.count("rotary") && saved["rotary"] > 0 && !layer.head_norms)
    saved[layer.whole_norms ? "norm" : "qkv"] += saved["rotary"];
  for (const std::string& c : recipes_in_order())
    if (recompute.count(c)) saved[c] = 0;
  return saved;
}

std::vector<std::string> recomputable_classes(const ModelShape& model) {
  std::vector<std::string> classes;
  for (const std::string& c : recipes_in_order()) {
    const bool some =
        std::any_of(model.layers.begin(), model.layers.end(), [&](const LayerShape& l) {
          return saved_without_recompute(l, model.hidden, element_bytes(Precision::fp32)).at(c) > 0;
        });
    if (some) classes.push_back(c);
  }
  return classes;
}

int64_t MemoryForecast::total() const {
  int64_t sum = 0;
  for (const MemoryRow& row : rows) sum += row.bytes;
  return sum;
}

int64_t MemoryForecast::bytes(const std::string& what) const {
  for (const MemoryRow& row : rows)
    if (row.what == what) return row.bytes;
  return 0;
}

std::string MemoryForecast::table() const {
  std::string text;
  const auto line = [&](const std::string& what, int64_t bytes) {
    char buffer[96];
    std::snprintf(buffer, sizeof buffer, "%-28s%12s\n", what.c_str(),
                  human_bytes(static_cast<double>(bytes)).c_str());
    text += buffer;
  };
  for (const MemoryRow& row : rows) line(row.what, row.bytes);
  line("total", total());
  return text;
}

MemoryForecast forecast_memory(const ModelShape& model, const TrainingRun& run) {
  const ElementBytes e = element_bytes(run.precision);
  const Parameters p = parameters(model);
  const int64_t n = p.total + p.mtp, experts = p.experts + p.mtp_experts,
                updated = (n - experts) / run.dense_shards + experts,
                master = run.master ? e.master : 0, grad = run.grad_bytes ? run.grad_bytes : e.wide,
                moment = run.moment_bytes ? run.moment_bytes : e.wide;
  MemoryForecast forecast;
  const auto add = [&](std::string what, int64_t bytes) {
    if (bytes > 0) forecast.rows.push_back({std::move(what), bytes});
  };
  add("weights", n * e.weight + p.untrained * e.wide);
  add("master, low bits", updated * master);
  add("gradients", n * grad);
  add("optimizer moments", 2 * updated * moment);

  Bytes saved;
  const auto add_saved = [&](const LayerShape& l) {
    for (const auto& [c, bytes] :
         saved_bytes_per_token(l, model.hidden, run.precision, run.recompute))
      if (!run.on_gpu || c != "layout") saved[c] += bytes * run.tokens;
    if (run.on_gpu)
      saved["layout"] += gpu_layout(l, run.received > 0 ? model.expert_ranks : 0) * run.tokens;
  };
  for (const LayerShape& l : model.layers) add_saved(l);
  // A module starts from states and embeddings, side by side after their norms, and ends with a
  // norm.
  for (const LayerShape& l : model.mtp) {
    add_saved(l);
    saved["residual"] += 5 * model.hidden * e.weight * run.tokens;
    saved["statistics"] += 3 * e.wide * run.tokens;
  }
  if (model.ends) {  // before the final norm
    saved["residual"] += model.hidden * e.weight * run.tokens;
    saved["statistics"] += e.wide * run.tokens;
  }
  for (const auto& [c, bytes] : saved) add("activations: " + c, bytes * run.at_once);

  if (run.on_gpu) {
    const int64_t layer = gpu_scratch(model.layers.back(), model, run, e),
                  head = model.ends ? gpu_head(model, run, e) : 0;
    add(layer > head ? "a layer's gradients" : "head's logits", std::max(layer, head));
    add("libraries' workspaces", kGpuWorkspaces);
    return forecast;
  }
  int64_t scratch =
      3 * model.hidden * e.weight;  // head: normed states, their gradient, the stream's
  for (const LayerShape& l : model.layers)
    scratch = std::max(scratch, scratch_per_token(l, model.hidden, e, run.recompute));
  add("receive buffer", static_cast<int64_t>(run.received * static_cast<double>(run.tokens)) *
                            model.hidden * e.weight);
  if (model.ends) add("logits, one chunk", logits_bytes(model, run, e));
  add("scratch", scratch * run.tokens);
  add("data", run.data_bytes);
  add("copy for saving", run.saves ? n * e.weight + updated * (master + 2 * moment) : 0);
  add("program and libtorch", run.base_bytes);
  return forecast;
}

}  // namespace conclave::plan
