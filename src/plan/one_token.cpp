#include "plan/one_token.h"

#include <algorithm>
#include <set>
#include <utility>

namespace conclave::plan {
namespace {

// "x [tokens, hidden] = [1024, 128]"
std::string shape(const std::string& name,
                  const std::vector<std::pair<std::string, int64_t>>& dims) {
  std::string words, numbers;
  for (const auto& [word, number] : dims) {
    words += (words.empty() ? "" : ", ") + word;
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(number);
  }
  return name + " [" + words + "] = [" + numbers + "]";
}

struct Dims {
  int64_t tokens, hidden;
  std::string model_file;
  std::string stream(const std::string& name) const {
    return shape(name, {{"tokens", tokens}, {"hidden", hidden}});
  }
};

Passage arrive(const TokenRun& run, const Dims& d) {
  const std::string micro = std::to_string(run.micro_batches) +
                            (run.micro_batches == 1 ? " micro-batch" : " micro-batches");
  return {
      "From the command line to the first block",
      {{"src/cli/main.cpp", "finds the verb and hands " + run.config + " to its recipe", ""},
       {"src/recipes/pretrain.cpp",
        "turns the config into decoder, units, data and optimizer, and introduces them", ""},
       {"src/data/packing.cpp",
        "documents become rows of " + std::to_string(run.row_length) +
            " tokens: ids, labels, positions",
        shape("each", {{"rows", run.rows}, {"row", run.row_length}})},
       {"src/train/loop.cpp", "asks for the rows of this step, in the order of the seed",
        shape("ids", {{"tokens", d.tokens}})},
       {"src/train/step.cpp",
        micro + " a step; the loss is seeded with 1 / scored tokens of the global batch", ""},
       {"src/parallel/micro_batch.cpp",
        "runs the segments of all blocks in order; a unit's weights are gathered around each", ""},
       {"src/ops/embedding.cpp", "looks up each id", d.stream("x")}}};
}

Passage mix(const LayerShape& l, const Dims& d) {
  const auto heads = [&](const char* name, const char* word, int64_t n) {
    return shape(name, {{"tokens", d.tokens}, {word, n}, {"head_dim", l.head_dim}});
  };
  return {
      "Attention half of a block: mix",
      {{d.model_file, "mix: norm, attention, residual; the model's file names its layers in order",
        ""},
       {"src/nn/norm.cpp",
        "normalises; leaves a closure on the tape for the backward, as each layer does",
        d.stream("n")},
       {"src/nn/linear.cpp", "queries, keys and values",
        shape("q", {{"tokens", d.tokens}, {"heads · head_dim", l.heads * l.head_dim}}) + ", " +
            shape("k, v",
                  {{"tokens", d.tokens}, {"kv_heads · head_dim", l.kv_heads * l.head_dim}})},
       {"src/ops/matmul.cpp", "the product itself, in blocks whose borders depend on sizes alone",
        ""},
       {"src/nn/attention.cpp", l.head_norms ? "normalises each query and key head" : "heads apart",
        heads("q", "heads", l.heads) + ", " + heads("k", "kv_heads", l.kv_heads)},
       {"src/ops/rotary.cpp", "turns queries and keys by their place in the document", ""},
       {"src/ops/attention.cpp", "each token looks back within its document",
        heads("a", "heads", l.heads)},
       {"src/nn/linear.cpp", "back to the stream, added to what came in", d.stream("h")}}};
}

Passage experts(const LayerShape& l, const Dims& d) {
  const int64_t received = d.tokens * l.top_k;
  const auto rows = [&](const char* name, const char* word, int64_t n) {
    return shape(name, {{"received", received}, {word, n}});
  };
  return {"Expert half of a block: route, dispatch, experts, combine, join",
          {{d.model_file, "route: norm and router", d.stream("n")},
           {"src/nn/router.cpp", "a probability for each expert, in fp32 or wider",
            shape("probs", {{"tokens", d.tokens}, {"experts", l.experts}})},
           {"src/ops/router.cpp", "the largest: which experts, with what weight",
            shape("ids, weights", {{"tokens", d.tokens}, {"top_k", l.top_k}})},
           {"src/comm/dispatch.cpp",
            "dispatch: a copy of the token to each of its experts, rows in the order of experts",
            rows("rows", "hidden", d.hidden)},
           {"src/nn/experts.cpp", "experts: gate and up of each row's expert",
            rows("gate_up", "2 · ffn", 2 * l.ffn)},
           {"src/ops/swiglu.cpp", "silu(gate) · up · routing weight", rows("a", "ffn", l.ffn)},
           {"src/ops/matmul.cpp", "down, the products of all experts at once",
            rows("rows", "hidden", d.hidden)},
           {"src/comm/dispatch.cpp",
            "combine: a token's rows are added up, in the order of its choices", d.stream("c")},
           {d.model_file, "join: added to the stream", d.stream("x")}}};
}

Passage dense(const LayerShape& l, const Dims& d) {
  const auto rows = [&](const char* name, const char* word, int64_t n) {
    return shape(name, {{"tokens", d.tokens}, {word, n}});
  };
  return {"Dense half of a block: feed_forward",
          {{d.model_file, "feed_forward: norm, dense layer, residual", d.stream("n")},
           {"src/nn/experts.cpp", "gate and up", rows("gate_up", "2 · dense_ffn", 2 * l.dense_ffn)},
           {"src/ops/swiglu.cpp", "silu(gate) · up", rows("a", "dense_ffn", l.dense_ffn)},
           {"src/nn/linear.cpp", "down, added to the stream", d.stream("x")}}};
}

Passage leave(const ModelShape& model, const TokenRun& run, const Dims& d) {
  const int64_t chunk = std::clamp<int64_t>(run.max_logits / model.vocab, 1, d.tokens);
  return {"The loss, and back",
          {{"src/parallel/micro_batch.cpp", "head: the final norm", d.stream("n")},
           {"src/ops/cross_entropy.cpp",
            "logits of one chunk of tokens at a time, their loss and gradients; never all of them",
            shape("logits", {{"chunk", chunk}, {"vocab", model.vocab}})},
           {"src/nn/tape.cpp",
            "the segments backwards: closures in reverse, then the weight-gradient tasks",
            d.stream("dx")},
           {"src/nn/weight.cpp", "weight gradients add up in their unit's flat gradient",
            shape("all units", {{"parameters", parameters(model).total}})},
           {"src/parallel/units.cpp",
            "sums each unit's gradient over the ranks; a rank keeps its range", ""},
           {"src/train/step.cpp", "one norm over all gradients, one clipping factor", ""},
           {"src/optim/adamw.cpp", "updates each range, weight decay on matrices only", ""},
           {"src/ops/adamw.cpp", "one pass over weights, moments and gradient", ""},
           {"src/checkpoint/save.cpp",
            "every so often: weights and train state to a folder, whole or not at all", ""}}};
}

}  // namespace

std::vector<Passage> one_token(const ModelShape& model, const TokenRun& run) {
  check(model);
  const Dims d{run.rows * run.row_length, model.hidden, run.model_file};
  std::vector<Passage> passages{arrive(run, d)};
  const auto first = [&](bool with_experts) {
    return std::find_if(model.layers.begin(), model.layers.end(),
                        [=](const LayerShape& l) { return (l.experts > 0) == with_experts; });
  };
  const auto expert_layer = first(true), dense_layer = first(false);
  const auto none = model.layers.end();
  const auto counted = [&](Passage p, bool with_experts) {
    const auto n =
        std::count_if(model.layers.begin(), model.layers.end(),
                      [=](const LayerShape& l) { return (l.experts > 0) == with_experts; });
    p.title += " (" + std::to_string(n) + " of " + std::to_string(model.layers.size()) + " blocks)";
    return p;
  };
  if (!model.layers.empty()) passages.push_back(mix(model.layers.front(), d));
  if (expert_layer != none) passages.push_back(counted(experts(*expert_layer, d), true));
  if (dense_layer != none) passages.push_back(counted(dense(*dense_layer, d), false));
  passages.push_back(leave(model, run, d));
  return passages;
}

std::vector<std::string> files(const std::vector<Passage>& passages) {
  std::set<std::string> names;
  for (const Passage& p : passages)
    for (const Station& s : p.stations) names.insert(s.file);
  return {names.begin(), names.end()};
}

std::string one_token_page(const ModelShape& model, const TokenRun& run) {
  std::string page = "One token through the house: " + run.config + "\n";
  for (const Passage& p : one_token(model, run)) {
    page += "\n" + p.title + "\n\n";
    for (const Station& s : p.stations)
      page += "- " + s.file + ": " + s.what + (s.shape.empty() ? "" : " — " + s.shape) + "\n";
  }
  return page;
}

}  // namespace conclave::plan
