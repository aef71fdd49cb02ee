// A decoder with its weights on this process, from a model folder or made new.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/dispatch.h"
#include "comm/groups.h"
#include "nn/decoder.h"
#include "optim/adamw.h"
#include "parallel/units.h"

namespace conclave::recipes {

struct Model {
  nlohmann::json config;  // the content of its config.json
  std::unique_ptr<nn::Decoder> decoder;
  comm::Groups groups;
  std::unique_ptr<parallel::Units> units;
  std::unique_ptr<comm::Dispatcher> dispatcher;
};

// Coefficients of the router's losses; negative: what config.json says (models/registry.h).
struct RouterCoefs {
  double aux = -1, sequence_aux = -1, z = -1;
};

// "fp32", "fp64" or "bf16"; ConfigError otherwise, beginning with `where`.
at::ScalarType parse_dtype(const std::string& name, const std::string& where);

struct ModelOptions {
  at::ScalarType dtype = at::kFloat;  // of weights and activations
  at::Device device = at::kCPU;
  bool training = false;  // with gradients
  RouterCoefs coefs = {};
  std::map<std::string, std::string> places = {};  // of an inline config: models/registry.h
  bool mtp = false;                                // likewise
  // The ranks that share it, laid out so; none: one rank.
  comm::CommFactory* ranks = nullptr;
  comm::RankLayout layout = {};
  std::string dispatcher = "all_to_all";  // comm::make_dispatcher
  bool release_weights = false, overlap = true;
};

// The decoder alone, without memory for its weights.
nn::Decoder describe_model(const nlohmann::json& config, const std::string& from,
                           const ModelOptions& options);

// Shapes and buffers, weights not yet filled. `from` names the config in messages.
Model make_model(nlohmann::json config, const std::string& from, const ModelOptions& options);

// A model folder read, converted to the options' dtype. Throws RunError or ConfigError naming the
// file, tensor or key.
Model load_model(const std::string& folder, const ModelOptions& options);

// config.json of a folder that the model's weights are saved in: what `config` says, without its
// quantization, with the type they have now (under the name that `config` has for it, torch_dtype
// or dtype) and with as many modules of multi-token prediction as the decoder has.
nlohmann::json saved_config(nlohmann::json config, const nn::Decoder& decoder,
                            at::ScalarType dtype);

// AdamW over the units' shards.
optim::AdamW make_adamw(parallel::Units& units, const optim::AdamWConfig& config);

// New weights from the seed, or a folder's; with bf16 weights the optimizer's master starts from
// the fp32 values before rounding (new), or from the folder's values.
void fill_new(Model& model, optim::AdamW& optimizer, uint64_t seed);
void fill_from_folder(const std::string& folder, Model& model, optim::AdamW& optimizer);

}  // namespace conclave::recipes
