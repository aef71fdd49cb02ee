#include "plan/routing.h"

#include <set>
#include <stdexcept>

namespace conclave::plan {
namespace {

void check(const RankRouting& r) {
  if (r.experts < 1 || r.top_k < 1 || r.top_k > r.experts || r.ranks < 1 || r.experts % r.ranks)
    throw std::logic_error("routing: expected top_k in 1 … experts, experts a multiple of ranks");
}

}  // namespace

double ranks_per_token_balanced(const RankRouting& r) {
  check(r);
  // The pattern repeats after `experts` tokens at the latest.
  const int64_t local = r.experts / r.ranks;
  int64_t sum = 0;
  for (int64_t t = 0; t < r.experts; ++t) {
    std::set<int64_t> seen;
    for (int64_t j = 0; j < r.top_k; ++j) seen.insert((t * r.top_k + j) % r.experts / local);
    sum += static_cast<int64_t>(seen.size());
  }
  return static_cast<double>(sum) / static_cast<double>(r.experts);
}

double ranks_per_token_uniform(const RankRouting& r) {
  check(r);
  double none = 1;  // probability that a rank gets no copy
  for (int64_t j = 0; j < r.top_k; ++j)
    none *= static_cast<double>(r.experts - r.experts / r.ranks - j) /
            static_cast<double>(r.experts - j);
  return static_cast<double>(r.ranks) * (1 - (none > 0 ? none : 0));
}

}  // namespace conclave::plan
