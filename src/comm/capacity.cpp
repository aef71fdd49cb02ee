#include "comm/capacity.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace conclave::comm {
namespace {

int64_t round_up(int64_t rows) {
  if (rows < 16) return rows;
  const int64_t step = int64_t{1} << (std::bit_width(static_cast<uint64_t>(rows)) - 4);
  return (rows + step - 1) / step * step;
}

}  // namespace

Capacity largest(const Capacity& a, const Capacity& b) {
  return {std::max(a.peer_rows, b.peer_rows), std::max(a.expert_rows, b.expert_rows)};
}

Capacity even_load(const LoadFacts& f) {
  const int64_t others = f.experts - f.experts / f.ranks;
  double none = 1;
  for (int64_t j = 0; j < f.top_k; ++j)
    none *= static_cast<double>(others - j) / static_cast<double>(f.experts - j);
  const double rows = static_cast<double>(f.tokens) * (1 - std::max(none, 0.0));
  return {static_cast<int64_t>(std::ceil(rows)), f.tokens * f.top_k};
}

Capacity highest_load(const LoadFacts& f) {
  return {f.tokens, f.ranks * f.tokens * std::min(f.top_k, f.experts / f.ranks)};
}

Capacity CapacityRule::above(const Capacity& load) const {
  const auto rows = [&](int64_t n, int64_t most) {
    const double room = std::ceil(margin_ * static_cast<double>(n));
    if (room >= static_cast<double>(most)) return std::max(n, most);
    return std::max(n, std::min(most, round_up(static_cast<int64_t>(room))));
  };
  const Capacity most = highest_load(facts_);
  return {rows(load.peer_rows, most.peer_rows), rows(load.expert_rows, most.expert_rows)};
}

void CapacityRule::begin(CapacityState& state) const {
  if (state.ranks == facts_.ranks && state.tokens == facts_.tokens) return;
  state = {.ranks = facts_.ranks,
           .tokens = facts_.tokens,
           .now = above(even_load(facts_)),
           .again = state.again};
}

void CapacityRule::follow(CapacityState& state, const Capacity& load, int64_t step) const {
  state.seen = largest(state.seen, load);
  const Capacity wanted = above(state.seen);
  const bool ends = step % kWindow == 0;
  state.now = ends ? wanted : largest(state.now, wanted);
  if (ends) state.seen = {};
}

void CapacityRule::rise(CapacityState& state, const Capacity& load) const {
  state.seen = largest(state.seen, load);
  state.now = largest(state.now, above(load));
}

}  // namespace conclave::comm
