// The router: which experts a token goes to, and with what weight.
#pragma once
#include "nn/block.h"

namespace conclave::nn {

struct RouterOptions {
  int64_t top_k = 1;
  bool renormalise = true;  // the chosen probabilities sum to 1
  double aux_coef = 0;      // coefficient of the auxiliary loss, balanced within each packed row
};

// x [tokens, hidden], w [experts, hidden]: softmax over all experts in fp32 or wider, then the
// top_k. The auxiliary loss adds its gradient, times rows.aux_seed, where the probabilities'
// gradient passes.
Routed route(Tape& tape, const Value& x, Weight& w, const Rows& rows, const RouterOptions& options);

}  // namespace conclave::nn
