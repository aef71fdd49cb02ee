#include "train/slowest_rank.h"

#include <algorithm>

#include "base/text.h"

namespace conclave::train {

void SlowestRank::add(const std::vector<double>& in_calls, double step) {
  in_calls_.resize(in_calls.size());
  const double weight = std::max(1.0 / ++steps_, 0.05);
  for (size_t r = 0; r < in_calls.size(); ++r)
    in_calls_[r] += weight * (in_calls[r] / step - in_calls_[r]);
}

std::optional<SlowestRank::Lag> SlowestRank::lag() const {
  if (in_calls_.size() < 2) return std::nullopt;
  const auto shortest = std::min_element(in_calls_.begin(), in_calls_.end());
  std::vector<double> others(in_calls_.begin(), shortest);
  others.insert(others.end(), shortest + 1, in_calls_.end());
  const auto middle = others.begin() + static_cast<ptrdiff_t>(others.size() / 2);
  std::nth_element(others.begin(), middle, others.end());
  return Lag{static_cast<int>(shortest - in_calls_.begin()), *middle - *shortest};
}

std::string SlowestRank::text() const {
  const auto slowest = lag();
  if (!slowest || slowest->of_step < kWorthSaying) return "";
  return format("slowest rank %d (+%.0f %%)", slowest->rank, 100 * slowest->of_step);
}

}  // namespace conclave::train
