// What `conclave pretrain` settles before it starts: which model, whether the settings go together,
// and what --dry-run prints.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "recipes/model_io.h"
#include "recipes/pretrain_config.h"

namespace conclave::recipes {

struct ModelChoice {
  nlohmann::json config;                      // the content of a config.json
  std::string from;                           // what messages call it
  std::map<std::string, std::string> places;  // of an inline config: where each key stands
  std::string tokenizer_folder;
  double mtp_weight = 0;  // 0: without modules of multi-token prediction
};

// The tensor classes that memory.recompute may name.
const std::vector<std::string>& recomputable_names();

// Refuses what no single key shows: what is missing, impossible together, or without effect in this
// run.
void check_pretrain(const PretrainConfig& c, const ConfigSource& source);

// Refuses model.bias_update_rate for a model without correction biases.
void check_bias_update(const ConfigSource& source, const nn::Decoder& decoder);

RouterCoefs router_coefs(const ModelSection& model);

ModelChoice choose_model(const PretrainConfig& c, const ConfigSource& source);

// The effective config, parameters, memory forecast on the device that would be used, and the
// one-token page. `svg`: the file for a picture of the ranks (plan/rank_picture.h), or empty.
// Returns 0.
int print_dry_run(const PretrainConfig& c, const ConfigSource& source, const ModelChoice& choice,
                  at::Device device, const std::string& config_path, const std::string& svg);

// How so many ranks, `per_node` on each node, share the work of a step, or why they cannot.
comm::RankLayout layout_of(const PretrainConfig& c, const ConfigSource& source,
                           const nn::Decoder& decoder, int ranks, int per_node);

}  // namespace conclave::recipes
