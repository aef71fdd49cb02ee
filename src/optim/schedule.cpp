#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace conclave::optim {

double learning_rate(const ScheduleConfig& s, double peak, int64_t step, int64_t steps) {
  if (step < s.warmup_steps) return peak * static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  if (s.kind == "constant") return peak;
  const double floor = peak * s.min_ratio;
  // Part of the decay that lies behind: 0 where it begins, 1 at the last step.
  auto behind = [&](double begin) {
    const double length = std::max(static_cast<double>(steps) - begin, 1.0);
    return std::clamp((static_cast<double>(step) - begin) / length, 0.0, 1.0);
  };
  if (s.kind == "cosine")
    return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * behind(static_cast<double>(s.warmup_steps))));
  const double decay_steps = std::round(s.decay_fraction * static_cast<double>(steps));
  return floor + (peak - floor) * (1 - std::sqrt(behind(static_cast<double>(steps) - decay_steps)));
}

}  // namespace conclave::optim
