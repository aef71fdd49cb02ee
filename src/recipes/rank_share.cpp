#include "recipes/rank_share.h"

#include <algorithm>

#include "base/human.h"
#include "base/text.h"
#include "models/registry.h"
#include "plan/recompute.h"
#include "plan/routing.h"
#include "recipes/shape.h"

namespace conclave::recipes {
namespace {

long long ll(int64_t n) { return static_cast<long long>(n); }

// What the allocator holds between tensors, more of it for a recorded step's streams; and what the
// libraries' kernels take beside it as they are loaded.
constexpr int64_t kHeldBack = int64_t{48} << 20, kHeldForGraph = int64_t{256} << 20,
                  kLibraries = int64_t{1} << 30;

void check_recompute(const BenchmarkConfig& c, const ConfigSource& source,
                     const plan::ModelShape& shape) {
  if (c.recompute == std::vector<std::string>{"auto"}) return;
  const auto known = plan::recomputable_classes(shape);
  for (const auto& name : c.recompute)
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw source.error("recompute", "`" + name +
                                          "` cannot be made again; expected [auto], or "
                                          "some of " +
                                          join(known, ", "));
}

void check_layout(const BenchmarkConfig& c, const ConfigSource& source) {
  source.require("model.config");
  const LayoutSection& l = c.layout;
  if (l.gpus % l.pp)
    throw source.error("layout.pp", format("expected a divisor of layout.gpus = %lld", ll(l.gpus)));
  const int64_t stage = l.gpus / l.pp;  // ranks that hold the same layers
  if (stage % l.ep)
    throw source.error("layout.ep",
                       format("expected a divisor of layout.gpus / layout.pp = %lld", ll(stage)));
  if (stage % l.dp_shard)
    throw source.error("layout.dp_shard",
                       format("expected a divisor of layout.gpus / layout.pp = %lld", ll(stage)));
  if (c.cuda_graph && c.gate == "uniform")
    throw source.error("cuda_graph",
                       "a recorded step draws the same experts each time; set gate to "
                       "real or balanced, or leave cuda_graph out");
  if (!c.profile.empty() && c.traced_steps == 0)
    throw source.error("profile",
                       "shows a traced step; set traced_steps to 1 or more, or leave profile out");
  if (c.batch.rows % c.batch.micro_rows)
    throw source.error("batch.micro_rows",
                       format("expected a divisor of batch.rows = %lld", ll(c.batch.rows)));
  if (c.transfer.beside == "two_micro_batches" && c.batch.rows / c.batch.micro_rows % 2)
    throw source.error("batch.rows",
                       "expected an even number of micro-batches with "
                       "transfer.beside two_micro_batches");
  if (c.cuda_graph && c.transfer.beside != "nothing")
    throw source.error("cuda_graph",
                       "a recorded step has one stream; set transfer.beside to nothing, or leave "
                       "cuda_graph out");
}

void check_model(const BenchmarkConfig& c, const ConfigSource& source,
                 const plan::ModelShape& shape) {
  const auto layers = static_cast<int64_t>(shape.layers.size());
  if (c.layout.pp > layers)
    throw source.error("layout.pp", format("expected at most the model's %lld layers", ll(layers)));
  for (const auto& l : shape.layers)
    if (l.experts % c.layout.ep)
      throw source.error("layout.ep",
                         format("expected a divisor of the model's %lld experts", ll(l.experts)));
  check_recompute(c, source, shape);
}

// The last `layers` of the model, or all and fewer of them from the front, as a config.json.
nlohmann::json with_layers(nlohmann::json config, int64_t layers, bool ends) {
  config["num_hidden_layers"] = layers;
  if (auto types = config.find("layer_types"); types != config.end())
    types->get_ref<nlohmann::json::array_t&>().resize(static_cast<size_t>(layers));
  if (!ends && config.contains("first_k_dense_replace")) config["first_k_dense_replace"] = 0;
  return config;
}

// Every size that costs time, divided; numbers of experts and choices stay.
nlohmann::json smaller(nlohmann::json config, const CpuSection& by) {
  const auto divide = [&](std::initializer_list<const char*> keys, int64_t divisor, int64_t unit) {
    for (const char* key : keys)
      if (auto value = config.find(key); value != config.end() && value->is_number_integer())
        *value = std::max(unit, value->get<int64_t>() / divisor / unit * unit);
  };
  divide({"hidden_size", "intermediate_size", "moe_intermediate_size", "q_lora_rank",
          "kv_lora_rank", "vocab_size"},
         by.width, 2);
  divide({"head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}, by.head_dim, 2);
  divide({"num_attention_heads", "num_key_value_heads"}, by.heads, 1);
  return config;
}

// Layers of a middle pipeline rank are like the model's last; those of the only one are all.
plan::ModelShape cut(const plan::ModelShape& whole, const nn::Share& share, int64_t layers) {
  plan::ModelShape s = whole;
  s.mtp.clear();
  s.ends = share.ends, s.expert_ranks = share.expert_ranks;
  if (share.ends)
    s.layers.resize(static_cast<size_t>(layers));
  else
    s.layers.assign(whole.layers.end() - layers, whole.layers.end());
  return s;
}

double received(const BenchmarkConfig& c, const plan::ModelShape& shape) {
  double most = 0;
  for (const auto& l : shape.layers) {
    if (!l.experts) continue;
    const plan::RankRouting routing{l.experts, l.top_k, c.layout.ep};
    most = std::max(most, c.gate == "balanced" ? plan::ranks_per_token_balanced(routing)
                                               : plan::ranks_per_token_uniform(routing));
  }
  return most;
}

int64_t limit_of(const BenchmarkConfig& c, const ConfigSource& source, int64_t free) {
  if (c.memory_limit == "none") return free - kLibraries;
  const auto bytes = bytes_of(c.memory_limit);
  if (!bytes || *bytes == 0)
    throw source.error("memory_limit",
                       "expected a size as `72 GiB`, or none, got `" + c.memory_limit + "`");
  return *bytes;
}

// Sets shape, run and forecast: all layers that the rank holds or that are asked for, else the most
// that fit.
void choose_layers(RankShare& s, const BenchmarkConfig& c, const ConfigSource& source,
                   const plan::ModelShape& whole, int64_t most) {
  const bool automatic = c.recompute == std::vector<std::string>{"auto"};
  if (!automatic) s.run.recompute = {c.recompute.begin(), c.recompute.end()};
  for (int64_t n = c.layers ? c.layers : most; n >= 1; --n) {
    s.shape = cut(whole, s.share, n);
    plan::TrainingRun run = s.run;
    const int64_t room = s.limit - (c.cuda_graph ? kHeldForGraph : kHeldBack);
    const bool fits = automatic ? plan::fit_recompute(s.shape, run, room)
                                : plan::forecast_memory(s.shape, run).total() <= room;
    s.forecast = plan::forecast_memory(s.shape, run);
    if (!fits && n > 1 && !c.layers) continue;
    if (!fits)
      throw source.error(
          c.layers ? "layers" : "memory_limit",
          format("%lld layer%s %s, the limit is %s; set fewer layers, batch.micro_rows or "
                 "more to recompute",
                 ll(n), n == 1 ? " needs" : "s need",
                 human_bytes(static_cast<double>(s.forecast.total())).c_str(),
                 human_bytes(static_cast<double>(s.limit)).c_str()));
    s.run = run;
    return;
  }
}

void set_run(RankShare& s, const BenchmarkConfig& c, bool for_cpu) {
  s.run.precision = plan::Precision::bf16;
  s.run.master = c.precision == "master";
  s.run.moment_bytes = 2;
  s.run.grad_bytes = for_cpu || c.gradients == "fp32" ? 4 : 2;
  s.run.dense_shards = c.layout.dp_shard;
  s.run.tokens = c.batch.micro_rows * s.seq_len;
  s.run.at_once = c.transfer.beside == "two_micro_batches" ? 2 : 1;
  s.run.received = received(c, s.whole);
  s.run.saves = false;
  s.run.base_bytes = program_bytes();
  s.run.on_gpu = !for_cpu;
  s.run.deterministic_row = c.deterministic && !for_cpu ? s.seq_len : 0;
}

}  // namespace

RankShare rank_share(const BenchmarkConfig& c, const ConfigSource& source, ShareOf size,
                     int64_t free) {
  const bool for_cpu = size == ShareOf::cpu;
  check_layout(c, source);
  RankShare s;
  s.config = tree_json(c.model.config);
  {
    const nn::Decoder whole = models::make_decoder(s.config, source.location("model.config"),
                                                   {.dtype = at::kBFloat16,
                                                    .aux_coef = 0,
                                                    .mtp = true,
                                                    .places = tree_locations(c.model.config)});
    s.architecture = whole.architecture;
    s.whole = shape_of(whole);
  }
  check_model(c, source, s.whole);
  const auto layers = static_cast<int64_t>(s.whole.layers.size());
  const int64_t with_experts = std::count_if(s.whole.layers.begin(), s.whole.layers.end(),
                                             [](const auto& l) { return l.experts > 0; });
  s.share = {.expert_ranks = c.layout.ep, .ends = c.layout.pp == 1};
  s.layers_held =
      std::min((layers + c.layout.pp - 1) / c.layout.pp, s.share.ends ? layers : with_experts);
  if (c.layers > s.layers_held)
    throw source.error("layers",
                       format("expected at most the %lld that a rank holds", ll(s.layers_held)));
  s.seq_len = for_cpu ? std::min(c.batch.seq_len, c.cpu.seq_len) : c.batch.seq_len;
  const int64_t limit = limit_of(c, source, free);
  s.limit = for_cpu ? free : limit;
  set_run(s, c, for_cpu);

  plan::ModelShape whole = s.whole;
  int64_t most = s.layers_held;
  if (for_cpu) {
    s.config = smaller(std::move(s.config), c.cpu);
    const std::string from = source.location("cpu") + ": the smaller model";
    whole = shape_of(models::make_decoder(s.config, from, {.dtype = at::kBFloat16}));
    most = std::min(most, c.cpu.layers);
    s.smaller = format(
        "hidden size, widths, latents and vocabulary / %lld, heads / %lld, head size / %lld, at "
        "most %lld layers and %lld tokens a sequence",
        ll(c.cpu.width), ll(c.cpu.heads), ll(c.cpu.head_dim), ll(c.cpu.layers), ll(c.cpu.seq_len));
  }
  choose_layers(s, c, source, whole, most);
  s.config =
      with_layers(std::move(s.config), static_cast<int64_t>(s.shape.layers.size()), s.share.ends);
  s.config["max_position_embeddings"] = s.seq_len;
  return s;
}

nn::Decoder make_decoder(const RankShare& s, at::Device device) {
  return models::make_decoder(
      s.config, "the share of a rank",
      {.dtype = at::kBFloat16, .device = device, .aux_coef = 0, .share = s.share});
}

}  // namespace conclave::recipes
