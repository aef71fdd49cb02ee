// The part of recipes/measure.h that runs on a GPU. Private to recipes/.
#pragma once
#include "recipes/measure.h"

namespace conclave::recipes::cuda {

Figures measure(const RankShare& share, const BenchmarkConfig& c, at::Device device);

}  // namespace conclave::recipes::cuda
