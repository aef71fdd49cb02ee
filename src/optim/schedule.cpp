#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace conclave::optim {

double learning_rate(const ScheduleConfig& s, double peak, int64_t step, int64_t steps) {
  if (step < s.warmup_steps)
    return peak * static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  if (s.kind == "constant") return peak;
  // Part of the decay that lies behind: 0 where it begins, 1 at the last step.
  auto behind = [&](double begin) {
    const double length = std::max(static_cast<double>(steps) - begin, 1.0);
    return std::clamp((static_cast<double>(step) - begin) / length, 0.0, 1.0);
  };
  // lerp is exact at both ends: the peak itself, and min_ratio of it.
  auto between = [&](double left) { return std::lerp(peak * s.min_ratio, peak, left); };
  const double warm = static_cast<double>(s.warmup_steps), last = static_cast<double>(steps);
  if (s.kind == "cosine") return between((1 + std::cos(std::numbers::pi * behind(warm))) / 2);
  const double begin = std::max(warm, last - std::round(s.decay_fraction * last));
  return between(1 - std::sqrt(behind(begin)));
}

}  // namespace conclave::optim
