// A decoder as plan/ sees it.
#pragma once
#include "nn/decoder.h"
#include "plan/memory.h"
#include "plan/shape.h"
#include "recipes/pretrain_config.h"

namespace conclave::recipes {

plan::ModelShape shape_of(const nn::Decoder& decoder);
plan::MemoryForecast forecast(const PretrainConfig& config, const plan::ModelShape& shape);

}  // namespace conclave::recipes
