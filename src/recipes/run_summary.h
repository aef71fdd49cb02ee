// What a pretraining run says at its end: summary.json (docs/formats.md) and lines for the user.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "recipes/pretrain_config.h"
#include "recipes/training_data.h"
#include "train/loop.h"

namespace conclave::recipes {

nlohmann::json summary_of(const PretrainConfig& config, const TrainingData& data,
                          const train::TrainState& state, const train::LoopResult& result);

// `checkpoint`: the folder of the last one.
void print_summary(const PretrainConfig& config, const std::string& config_path,
                   const nlohmann::json& summary, const std::string& checkpoint);

// Whether the run that came to `step` in this folder ended: its summary is the last that it writes.
bool is_finished(const std::string& output, int64_t step);

}  // namespace conclave::recipes
