#include "recipes/pretrain.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "base/files.h"
#include "base/human.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/stop.h"
#include "base/text.h"
#include "checkpoint/rank_files.h"
#include "comm/call_times.h"
#include "optim/adamw.h"
#include "recipes/device.h"
#include "recipes/dry_ranks.h"
#include "recipes/dry_run.h"
#include "recipes/measure.h"
#include "recipes/model_io.h"
#include "recipes/pretrain_config.h"
#include "recipes/pretrain_gpu.h"
#include "recipes/ranks.h"
#include "recipes/run_summary.h"
#include "recipes/shape.h"
#include "recipes/threads.h"
#include "recipes/training_data.h"
#include "train/loop.h"

namespace conclave::recipes {
namespace {

// The checkpoint to go on from, or "".
std::string resume_from(const PretrainConfig& c, const ConfigSource& source) {
  if (c.resume != "auto" && c.resume != "never") {
    if (!path_exists(c.resume + "/train_state.safetensors") &&
        !checkpoint::has_rank_files(c.resume))
      throw source.error("resume", "expected auto, never or a checkpoint's folder; there is no " +
                                       c.resume + "/train_state.safetensors");
    const std::string damage = checkpoint::find_damage(c.resume, checkpoint::Verify::checksums);
    if (!damage.empty())
      throw RunError(c.resume + ": damaged: " + damage + "; name another checkpoint with resume");
    return c.resume;
  }
  const auto found = checkpoint::find_latest(c.output, checkpoint::Verify::checksums);
  if (!found) return "";
  if (c.resume == "never")
    throw source.error("resume", "never, but " + c.output + " holds a checkpoint of step " +
                                     std::to_string(found->step) +
                                     "; choose another output, or resume: auto");
  return found->path.string();
}

// A checkpoint is gone on from only with the model it was made with.
void check_same_model(const nlohmann::json& ours, const std::string& checkpoint) {
  const auto theirs = read_json(checkpoint + "/config.json");
  for (const auto& [key, value] : ours.items())
    if (!theirs.contains(key) || theirs[key] != value)
      throw ConfigError(checkpoint + ": its model has `" + key +
                        "` = " + (theirs.contains(key) ? theirs[key].dump() : "nothing") +
                        ", this config says " + value.dump() +
                        "; set it back, or choose another output");
}

int pretrain_here(const std::string& config_path, const std::vector<std::string>& sets,
                  bool dry_run, const std::string& svg, comm::World* world) {
  const auto config = read_config<PretrainConfig>(config_path, sets, "pretrain");
  const PretrainConfig& c = config.value;
  const ConfigSource& source = config.source;
  check_pretrain(c, source);
  use_threads(c.threads);
  return_large_blocks();
  const at::ScalarType dtype = parse_dtype(c.dtype, "dtype");
  const ModelChoice choice = choose_model(c, source);
  ModelOptions options{.dtype = dtype,
                       .training = true,
                       .coefs = router_coefs(c.model),
                       .places = choice.places,
                       .mtp = choice.mtp_weight != 0};
  if (c.model.bias_update_rate)
    check_bias_update(source, describe_model(choice.config, choice.from, options));
  const at::Device device = options.device =
      choose_device(c.device, source.location("device"), dtype);
  if (c.cuda_graph && !device.is_cuda())
    throw source.error("cuda_graph", "needs a GPU; leave it out on the CPU");
  if (source.is_set("parallel.overlap") && !device.is_cuda())
    throw source.error("parallel.overlap", "has no effect on the CPU; leave it out");
  if (dry_run) return print_dry_run(c, source, choice, device, config_path, svg);

  install_stop_handlers();
  options.layout = layout_of(c, source, describe_model(choice.config, choice.from, options),
                             world ? world->world() : 1, world ? world->place().local_world : 1);
  options.dispatcher = c.parallel.dispatcher + (c.parallel.capacity ? "_capacity" : "");
  options.release_weights = c.parallel.weights == "release";
  options.overlap = c.parallel.overlap;
  comm::CallTimes calls;
  std::optional<comm::TimedFactory> timed;
  if (world) {
    options.ranks = &timed.emplace(*world, calls);
    options.device = settle(*world, device);
    log_info("layout: " + options.layout.text());
  }
  const plan::ModelShape shape = shape_of(describe_model(choice.config, choice.from, options));
  if (device.is_cuda()) prepare_gpu(c, forecast(c, shape, device, 0));
  const auto find_resume = [&] { return resume_from(c, source); };
  const std::string resume = world ? world->of_rank_zero("checkpoint", find_resume) : find_resume();
  Model m = make_model(choice.config, choice.from, options);
  TrainingData d = read_data(world, c, source, choice.tokenizer_folder, m.decoder->vocab);
  optim::AdamW optimizer = make_adamw(*m.units, c.optimizer);
  nlohmann::json config_to_save = saved_config(m.config, *m.decoder, dtype);
  config_to_save["eos_token_id"] = d.corpus.eos;

  train::TrainState state{.data = fingerprint(c, d)};
  if (!resume.empty()) {
    check_same_model(config_to_save, resume);
    state = train::restore(resume, *m.units, optimizer);
    if (state.data != fingerprint(c, d))
      throw ConfigError(resume +
                        ": was trained on other rows (text, tokenizer, data.seq_len, "
                        "data.documents or seed differ); set them "
                        "back, or start a new run from its weights with model.from");
    log_info("resuming from " + resume + ", step " + std::to_string(state.step));
  } else if (c.model.from) {
    fill_from_folder(*c.model.from, m, optimizer);
  } else {
    fill_new(m, optimizer, static_cast<uint64_t>(c.seed));
  }
  if (state.step >= c.steps && is_finished(c.output, state.step)) {
    log_info("nothing to do: " + resume + " is at step " + std::to_string(state.step) + " of " +
             std::to_string(c.steps));
    return 0;
  }

  const plan::MemoryForecast memory = forecast(
      c, shape, device,
      data_bytes(*d.corpus.train, d.train) + data_bytes(*d.corpus.validation, d.validation));
  if (!world)  // a forecast of ranks is the dry run's
    log_info(format("memory%s: %s will be needed, %s are free",
                    device.is_cuda() ? " of the GPU" : "",
                    human_bytes(static_cast<double>(memory.total())).c_str(),
                    human_bytes(static_cast<double>(free_memory(device))).c_str()));
  const auto control = world ? world->control() : nullptr;  // of the threads that save
  checkpoint::RunFolder folder(c.output, static_cast<int>(c.checkpoint.keep_last), control.get(),
                               c.checkpoint.layout == "per_rank" ? checkpoint::Layout::per_rank
                                                                 : checkpoint::Layout::shared);
  const auto companions = checkpoint::read_companion_files(choice.tokenizer_folder);
  train::LoopConfig loop{.steps = c.steps,
                         .rows = c.batch.rows,
                         .micro_rows = c.batch.micro_rows,
                         .clip_norm = c.clip_norm,
                         .max_skipped = c.max_skipped,
                         .bias_rate = c.model.bias_update_rate.value_or(0.001),
                         .mtp_weight = choice.mtp_weight};
  loop.recompute = {c.memory.recompute.begin(), c.memory.recompute.end()};
  loop.cuda_graph = c.cuda_graph;
  if (c.parallel.capacity) {
    const int64_t tokens = rows_at_once(c, options.layout.world()) * c.data.seq_len;
    loop.capacity =
        comm::CapacityRule(load_facts(shape, tokens, options.layout.ep), *c.parallel.capacity);
  }
  loop.at_once = static_cast<int>(c.parallel.at_once);
  std::optional<GpuFigures> gpu;
  if (device.is_cuda()) {
    gpu.emplace(device, shape, c.data.seq_len, world ? world->world() : 1);
    loop.beside_rate = [&](double tokens_per_second) { return gpu->text(tokens_per_second); };
  }
  loop.validate_every = c.validation.every;
  loop.checkpoint_every = c.checkpoint.every;
  loop.lr = [&](int64_t step) {
    return optim::learning_rate(c.schedule, c.optimizer.lr, step, c.steps);
  };
  train::Parts parts{*m.decoder,    *m.units,  *m.dispatcher, optimizer, d.train,
                     &d.validation, d.sampler, folder,        {}};
  if (world) parts.calls = &calls;
  parts.complete = [&](checkpoint::FolderContents& contents) {
    contents.config_json = config_to_save.dump(2) + "\n";
    contents.files = companions;
  };
  const auto result = train::run_loop(loop, parts, state);
  if (world && world->rank() != 0) return result.stopped ? 75 : 0;
  auto summary = summary_of(c, d, state, result);
  if (!world) summary["forecast_memory_bytes"] = memory.total();
  if (gpu) gpu->add_to(summary);
  write_file_atomic(c.output + "/summary.json", summary.dump(2) + "\n");
  print_summary(c, config_path, summary, folder.step_path(state.step).string());
  return result.stopped ? 75 : 0;
}

}  // namespace

int pretrain(const std::string& config_path, const std::vector<std::string>& sets, bool dry_run,
             const std::string& svg) {
  if (dry_run) {  // no rank needs the others for it
    const auto place = place_here();
    return place && place->rank != 0 ? 0 : pretrain_here(config_path, sets, dry_run, svg, nullptr);
  }
  if (!svg.empty()) throw ConfigError("--svg draws what --dry-run finds; add --dry-run");
  return on_ranks(
      [&] { return given(config_path, sets); },
      [&](comm::World* world) { return pretrain_here(config_path, sets, dry_run, "", world); });
}

}  // namespace conclave::recipes
