#include <algorithm>

#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/folder.h"
#include "recipes/dry_run.h"

namespace conclave::recipes {
namespace {

void check_schedule(const PretrainConfig& c, const ConfigSource& source) {
  auto without_effect = [&](const char* key) {
    if (source.is_set(key))
      throw source.error(key,
                         "has no effect with schedule.kind " + c.schedule.kind + "; leave it out");
  };
  if (c.schedule.kind == "constant") without_effect("schedule.min_ratio");
  if (c.schedule.kind != "wsd") without_effect("schedule.decay_fraction");
  if (c.schedule.warmup_steps >= c.steps)
    throw source.error(
        "schedule.warmup_steps",
        format("expected fewer than steps = %lld, got %lld", static_cast<long long>(c.steps),
               static_cast<long long>(c.schedule.warmup_steps)));
}

}  // namespace

// Those that nn/ and parallel/ give recipes for (nn::Value::made_again_by).
const std::vector<std::string>& recomputable_names() {
  static const std::vector<std::string> names{"norm",   "qkv",      "rotary",  "attention",
                                              "linear", "dispatch", "gate_up", "swiglu"};
  return names;
}

void check_pretrain(const PretrainConfig& c, const ConfigSource& source) {
  source.require("output");
  source.require("data.text.paths");
  if (source.is_set("model.config") == source.is_set("model.from"))
    throw source.error(
        "model", "expected one of model.config (new weights) and model.from (a folder's), got " +
                     std::string(source.is_set("model.from") ? "both" : "none"));
  if (c.model.from && source.is_set("data.tokenizer"))
    throw source.error(
        "data.tokenizer",
        "has no effect with model.from, which has a tokenizer of its own; leave it out");
  if (!c.model.from) source.require("data.tokenizer");
  if (c.data.text.validation_fraction == 0 && !c.data.text.validation_every)
    throw source.error("data.text.validation_fraction",
                       "expected more than 0: the validation loss is what a run is judged by");
  if (c.batch.micro_rows > c.batch.rows)
    throw source.error("batch.micro_rows", format("expected at most batch.rows = %lld, got %lld",
                                                  static_cast<long long>(c.batch.rows),
                                                  static_cast<long long>(c.batch.micro_rows)));
  for (const auto& name : c.memory.recompute)
    if (std::find(recomputable_names().begin(), recomputable_names().end(), name) ==
        recomputable_names().end())
      throw source.error("memory.recompute", "`" + name +
                                                 "` cannot be made again; expected some of " +
                                                 join(recomputable_names(), ", "));
  check_schedule(c, source);
  if (c.cuda_graph && (c.dtype != "bf16" || c.data.documents != "joined"))
    throw source.error("cuda_graph",
                       "needs dtype bf16, whose products wait for nothing, and data.documents "
                       "joined, which makes all steps alike; set both, or leave it out");
}

void check_bias_update(const ConfigSource& source, const nn::Decoder& decoder) {
  for (const auto& layer : decoder.layers)
    if (layer.block->correction_bias()) return;
  throw source.error("model.bias_update_rate", "has no effect: the routers of " +
                                                   decoder.architecture +
                                                   " have no correction bias; leave it out");
}

RouterCoefs router_coefs(const ModelSection& model) {
  return {.aux = model.aux_coef.value_or(-1),
          .sequence_aux = model.sequence_aux_coef.value_or(-1),
          .z = model.z_coef.value_or(-1)};
}

namespace {

// The weight of multi-token prediction's loss. It is trained where the model's config names modules
// for it, unless the folder to go on from lacks their weights: transformers leaves them out when it
// saves.
double choose_mtp_weight(const PretrainConfig& c, const ConfigSource& source,
                         const ModelChoice& choice) {
  const nn::Decoder decoder =
      describe_model(choice.config, choice.from,
                     {.coefs = router_coefs(c.model), .places = choice.places, .mtp = true});
  const bool asked = source.is_set("model.mtp_weight");
  if (decoder.mtp.empty()) {
    if (!asked) return 0;
    throw source.error("model.mtp_weight", "has no effect: " + choice.from +
                                               " names no modules for multi-token prediction "
                                               "(num_nextn_predict_layers); leave it out");
  }
  const double weight = c.model.mtp_weight.value_or(0.3);
  if (weight == 0) return 0;
  const std::string first = decoder.mtp.front().eh_proj->name();
  if (!c.model.from || checkpoint::HfFolder(*c.model.from).tensors().count(first)) return weight;
  const std::string missing = *c.model.from + " has no weights for multi-token prediction (" +
                              first + "), though its config.json says num_nextn_predict_layers = " +
                              std::to_string(decoder.mtp.size());
  if (asked) throw source.error("model.mtp_weight", missing + "; leave it out");
  log_info(missing + ": it is left out");
  return 0;
}

}  // namespace

comm::RankLayout layout_of(const PretrainConfig& c, const ConfigSource& source,
                           const nn::Decoder& decoder, int ranks, int per_node) {
  int64_t experts = 0;
  for (const auto& layer : decoder.layers) experts = std::max(experts, layer.facts.experts);
  const comm::RankLayout layout = comm::make_layout(
      c.parallel, {.world = ranks, .ranks_per_node = per_node, .experts = experts},
      [&](const std::string& key, const std::string& what) {
        return source.error("parallel." + key, what);
      });
  if (c.batch.rows % ranks != 0)
    throw source.error(
        "batch.rows", format("expected a multiple of %d, the number of ranks, as %lld is; got %lld",
                             ranks, static_cast<long long>((c.batch.rows / ranks + 1) * ranks),
                             static_cast<long long>(c.batch.rows)));
  for (const char* key :
       {"parallel.weights", "parallel.overlap", "parallel.at_once", "checkpoint.layout"})
    if (ranks == 1 && source.is_set(key))
      throw source.error(key, "has no effect with one rank; leave it out");
  if (c.parallel.at_once == 2 && layout.ep == 1 && c.parallel.weights == "keep")
    throw source.error("parallel.at_once",
                       "has no effect with ep 1, where rows stay where they are, and weights keep; "
                       "leave it out");
  if (c.parallel.at_once == 2 && c.batch.rows / ranks <= c.batch.micro_rows)
    throw source.error("parallel.at_once",
                       format("has no effect with one micro-batch a rank: it has %lld rows, and "
                              "batch.micro_rows is %lld; leave it out",
                              static_cast<long long>(c.batch.rows / ranks),
                              static_cast<long long>(c.batch.micro_rows)));
  if (ranks > 1 && c.cuda_graph)
    throw source.error("cuda_graph", "is for one rank; leave it out with several");
  return layout;
}

ModelChoice choose_model(const PretrainConfig& c, const ConfigSource& source) {
  ModelChoice choice;
  if (c.model.from) {
    choice.from = *c.model.from + "/config.json";
    choice.config = read_json(choice.from);
    choice.tokenizer_folder = *c.model.from;
  } else {
    choice.from = source.location("model.config");
    choice.config = tree_json(c.model.config);
    choice.places = tree_locations(c.model.config);
    choice.tokenizer_folder = c.data.tokenizer;
  }
  choice.mtp_weight = choose_mtp_weight(c, source, choice);
  return choice;
}

}  // namespace conclave::recipes
