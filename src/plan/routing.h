// How many ranks a token is sent to.
#pragma once
#include <cstdint>

namespace conclave::plan {

struct RankRouting {
  int64_t experts = 1, top_k = 1, ranks = 1;  // ranks share the experts equally
};

// Distinct ranks a token, in the mean: a received row each.
// The balanced gate: token t, slot j goes to expert (t · top_k + j) mod experts.
double ranks_per_token_balanced(const RankRouting& r);
// Any top_k experts alike: ranks · (1 − Π over j < top_k of (experts − local − j) / (experts − j)).
double ranks_per_token_uniform(const RankRouting& r);

}  // namespace conclave::plan
