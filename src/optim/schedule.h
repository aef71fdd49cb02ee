// Learning rate as a pure function of the step: linear warm-up, then cosine, WSD (warm-up, stable,
// decay; arXiv 2404.06395) or constant.
#pragma once
#include <string>

#include "base/config.h"

namespace conclave::optim {

struct ScheduleConfig {
  std::string kind = "cosine";
  int64_t warmup_steps = 100;
  double min_ratio = 0.1;
  double decay_fraction = 0.2;
  void fields(auto& f) {
    f("kind", kind, "shape after the warm-up", one_of({"cosine", "wsd", "constant"}));
    f("warmup_steps", warmup_steps, "steps over which the rate rises linearly to optimizer.lr",
      not_negative);
    f("min_ratio", min_ratio, "last rate as a part of the peak (cosine, wsd)", within(0, 1));
    f("decay_fraction", decay_fraction, "part of all steps over which wsd decays, as 1 − √x",
      within(0, 1));
  }
};

// Rate of step 1 … steps. Step warmup_steps has the peak itself; the last step min_ratio of it. A
// decay that would begin within the warm-up begins after it.
// Refuses nothing: the recipe checks that the warm-up is shorter than the run.
double learning_rate(const ScheduleConfig& schedule, double peak, int64_t step, int64_t steps);

}  // namespace conclave::optim
