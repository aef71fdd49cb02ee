#include "parallel/segment_weights.h"

#include <algorithm>

namespace conclave::parallel {

void SegmentWeights::begin(int index, bool backward) {
  if (!units_.gathers()) return;
  const auto [first, second] =
      units_of(decoder_, segments_[static_cast<size_t>(index)], backward, options_);
  for (nn::Unit* unit : {first, second}) {
    if (!unit) continue;
    if (take(unit)) units_.hold(unit);
    units_.gather(unit);
  }
  prefetch_next(index, backward);
}

void SegmentWeights::end(int index, bool backward) {
  const auto [first, second] =
      units_of(decoder_, segments_[static_cast<size_t>(index)], backward, options_);
  for (nn::Unit* unit : {first, second}) {
    if (!unit || needed_again(decoder_, segments_, index, backward, options_, unit)) continue;
    if (units_.gathers()) {
      std::erase(held_, unit);
      units_.release(unit);
    }
    if (backward && options_.last && units_.reduces() && !options_.defer_weight_gradients &&
        !comes_again(index, unit))
      units_.reduce(unit);
  }
}

bool SegmentWeights::take(nn::Unit* unit) {
  if (std::find(held_.begin(), held_.end(), unit) != held_.end()) return false;
  held_.push_back(unit);
  return true;
}

// Of the units to come in this pass the first that is not here.
void SegmentWeights::prefetch_next(int index, bool backward) {
  const int next = backward ? -1 : 1;
  for (int i = index + next; i >= 0 && i < static_cast<int>(segments_.size()); i += next) {
    const auto [first, second] =
        units_of(decoder_, segments_[static_cast<size_t>(i)], backward, options_);
    for (nn::Unit* unit : {first, second}) {
      if (!unit || std::find(held_.begin(), held_.end(), unit) != held_.end()) continue;
      if (!units_.is_gathered(unit)) continue;
      if (units_.prefetch(unit) && take(unit)) units_.hold(unit);
      return;
    }
  }
}

// In a later segment of the backward, of whatever layer.
bool SegmentWeights::comes_again(int index, const nn::Unit* unit) const {
  for (int i = index - 1; i >= 0; --i) {
    const auto [first, second] =
        units_of(decoder_, segments_[static_cast<size_t>(i)], true, options_);
    if (unit == first || unit == second) return true;
  }
  return false;
}

}  // namespace conclave::parallel
