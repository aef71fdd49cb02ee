#include "recipes/model_io.h"

#include <ATen/ops/zeros_like.h>

#include "base/error.h"
#include "base/json.h"
#include "comm/dispatch_ranks.h"
#include "models/registry.h"
#include "train/state.h"

namespace conclave::recipes {

at::ScalarType parse_dtype(const std::string& name, const std::string& where) {
  if (name == "fp32") return at::kFloat;
  if (name == "fp64") return at::kDouble;
  if (name == "bf16") return at::kBFloat16;
  throw ConfigError(where + ": expected fp32, bf16 or fp64, got `" + name + "`");
}

namespace {

// The groups of a run on one rank.
class OneRank final : public comm::CommFactory {
 public:
  int rank() const override { return 0; }
  int world() const override { return 1; }
  std::unique_ptr<comm::Comm> make(const std::vector<int>&, const std::string&) override {
    return comm::single();
  }
};

}  // namespace

nn::Decoder describe_model(const nlohmann::json& config, const std::string& from,
                           const ModelOptions& o) {
  nn::Share share;
  if (o.ranks)
    share = {.expert_ranks = o.layout.ep,
             .expert_rank = o.layout.experts().coord(o.ranks->rank(), "ep")};
  return models::make_decoder(config, from,
                              {.dtype = o.dtype,
                               .device = o.device,
                               .aux_coef = o.coefs.aux,
                               .sequence_aux_coef = o.coefs.sequence_aux,
                               .z_coef = o.coefs.z,
                               .mtp = o.mtp,
                               .share = share,
                               .places = o.places});
}

Model make_model(nlohmann::json config, const std::string& from, const ModelOptions& o) {
  Model m;
  m.config = std::move(config);
  m.decoder = std::make_unique<nn::Decoder>(describe_model(m.config, from, o));
  OneRank one;
  m.groups = comm::make_groups(o.layout, o.ranks ? *o.ranks : one);
  m.units = std::make_unique<parallel::Units>(
      *m.decoder, m.groups,
      parallel::UnitsOptions{.training = o.training,
                             .release_after_use = o.ranks && o.release_weights,
                             .device = o.device,
                             .overlap = o.overlap});
  m.dispatcher = comm::make_dispatcher(o.dispatcher, *m.groups.ep);
  if (o.overlap && m.groups.ep->size() > 1) m.dispatcher->lane().open("rows", o.device);
  return m;
}

Model load_model(const std::string& folder, const ModelOptions& options) {
  const checkpoint::HfFolder files(folder);
  const std::string from = folder + "/config.json";
  Model m = make_model(parse_json(files.config_json(), from), from, options);
  train::load_weights(files, *m.units, [&](size_t i) { return m.units->shards()[i].weights; });
  return m;
}

optim::AdamW make_adamw(parallel::Units& units, const optim::AdamWConfig& config) {
  std::vector<optim::FlatShard> shards;
  for (const auto& s : units.shards())
    shards.push_back({s.weights, s.grad, s.decay_ranges, s.unit->trained()});
  return optim::AdamW(config, std::move(shards));
}

void fill_new(Model& m, optim::AdamW& optimizer, uint64_t seed) {
  parallel::initialise(*m.units, seed, m.decoder->initializer_range,
                       [&](size_t shard, const at::Tensor& values) {
                         if (optimizer.lo(shard).defined()) optimizer.set_master(shard, values);
                       });
}

void fill_from_folder(const std::string& folder, Model& m, optim::AdamW& optimizer) {
  const checkpoint::HfFolder files(folder);
  std::vector<at::Tensor> masters(m.units->shards().size());
  for (size_t i = 0; i < masters.size(); ++i)
    if (optimizer.lo(i).defined())
      masters[i] =
          at::zeros_like(m.units->shards()[i].weights, at::TensorOptions().dtype(at::kFloat));
  train::load_weights(files, *m.units, [&](size_t i) {
    return masters[i].defined() ? masters[i] : m.units->shards()[i].weights;
  });
  for (size_t i = 0; i < masters.size(); ++i)
    if (masters[i].defined()) optimizer.set_master(i, masters[i]);
}

nlohmann::json saved_config(nlohmann::json config, const nn::Decoder& decoder,
                            at::ScalarType dtype) {
  if (!config.contains("model_type")) config["model_type"] = decoder.model_type;
  config.erase("quantization_config");
  const bool published = config.contains("torch_dtype") && !config.contains("dtype");
  config.erase(published ? "dtype" : "torch_dtype");
  config[published ? "torch_dtype" : "dtype"] = dtype == at::kBFloat16 ? "bfloat16"
                                                : dtype == at::kDouble ? "float64"
                                                                       : "float32";
  if (config.contains("num_nextn_predict_layers"))
    config["num_nextn_predict_layers"] = decoder.mtp.size();
  return config;
}

}  // namespace conclave::recipes
