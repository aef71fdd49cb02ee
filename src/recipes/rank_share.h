// What one rank of a published layout has to do, as `conclave benchmark` runs it on one device.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "nn/decoder.h"
#include "plan/memory.h"
#include "plan/shape.h"
#include "recipes/benchmark_config.h"

namespace conclave::recipes {

struct RankShare {
  std::string architecture;
  plan::ModelShape whole;   // the model as published, multi-token prediction beside it
  int64_t layers_held = 0;  // by a rank of the layout; a middle pipeline rank's have experts

  nlohmann::json config;  // of what is run: fewer layers, on the CPU smaller
  nn::Share share;
  plan::ModelShape shape;  // of what is run
  plan::TrainingRun run;   // its precisions, tokens and recompute
  plan::MemoryForecast forecast;
  int64_t limit = 0;  // bytes that the forecast may take
  int64_t seq_len = 0;
  std::string smaller;  // how it was made smaller for the CPU; empty: it was not
};

enum class ShareOf { full_size, cpu };  // on a GPU, or smaller for the CPU

// `free`: bytes that may be taken where the config sets no limit. Throws ConfigError where the
// config does not go together, or does not fit.
RankShare rank_share(const BenchmarkConfig& config, const ConfigSource& source, ShareOf size,
                     int64_t free);

// The decoder of what is run, without memory for its weights.
nn::Decoder make_decoder(const RankShare& share, at::Device device = at::kCPU);

}  // namespace conclave::recipes
