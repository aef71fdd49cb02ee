#include "plan/recompute.h"

#include <cmath>
#include <limits>
#include <set>

namespace conclave::plan {
namespace {

// Bytes a token that making a class again moves; a rotary kernel reaches two thirds of the rate of
// the others.
double cost_again(const ModelShape& model, const TrainingRun& run, const std::string& c) {
  const int64_t hidden = model.hidden, row = hidden * element_bytes(run.precision).weight;
  double sum = 0;
  for (const LayerShape& l : model.layers) {
    const auto saved = static_cast<double>(saved_bytes_per_token(l, hidden, run.precision).at(c));
    if (c == "swiglu")
      sum += 3 * saved;  // reads gate and up
    else if (c == "dispatch")
      sum += saved + static_cast<double>(row) * (1 + 2 * run.received);
    else
      sum += (c == "rotary" ? 3 : 2) * saved;
  }
  return sum;
}

}  // namespace

const std::vector<std::string>& cheap_classes() {
  static const std::vector<std::string> classes{"norm", "swiglu", "rotary", "dispatch"};
  return classes;
}

bool fit_recompute(const ModelShape& model, TrainingRun& run, int64_t limit) {
  const std::vector<std::string>& classes = cheap_classes();
  const std::set<std::string> given = run.recompute;
  const auto with = [&](size_t chosen) {
    TrainingRun r = run;
    r.recompute = given;
    for (size_t i = 0; i < classes.size(); ++i)
      if (chosen >> i & 1) r.recompute.insert(classes[i]);
    return r;
  };
  double least = std::numeric_limits<double>::infinity();
  size_t best = (size_t{1} << classes.size()) - 1;
  for (size_t chosen = 0; chosen < size_t{1} << classes.size(); ++chosen) {
    double cost = 0;
    for (size_t i = 0; i < classes.size(); ++i)
      if (chosen >> i & 1) cost += cost_again(model, run, classes[i]);
    if (cost < least && forecast_memory(model, with(chosen)).total() <= limit)
      least = cost, best = chosen;
  }
  run = with(best);
  return std::isfinite(least);
}

}  // namespace conclave::plan
