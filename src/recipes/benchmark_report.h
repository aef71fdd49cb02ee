// What `conclave benchmark` says: the share before it runs, its figures after.
#pragma once
#include <nlohmann/json.hpp>

#include "recipes/measure.h"

namespace conclave::recipes {

void print_model(const RankShare& share);
void print_flops(const plan::ModelShape& shape, int64_t seq_len);
// What the rank has, and what of the whole run is not there.
void print_share(const RankShare& share, const BenchmarkConfig& c);

nlohmann::json results(const RankShare& share, const BenchmarkConfig& c, const Figures& f);
void print_results(const RankShare& share, const BenchmarkConfig& c, const Figures& f,
                   const nlohmann::json& results);

}  // namespace conclave::recipes
