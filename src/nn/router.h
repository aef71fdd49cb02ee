// The router: which experts a token goes to, and with what weight.
#pragma once
#include "nn/block.h"
#include "ops/router.h"

namespace conclave::nn {

using ops::Scoring;

struct RouterOptions {
  Scoring scoring = Scoring::softmax_then_top_k;
  int64_t top_k = 1;
  bool renormalise = true;             // the chosen weights sum to 1
  double scale = 1;                    // of the weights, after that
  int64_t groups = 1, top_groups = 1;  // sigmoid: ops/router.h
  Weight* bias = nullptr;              // [experts], of the linear
  Weight* correction_bias = nullptr;   // [experts], a buffer: in the choice only (sigmoid)
  // Coefficients of the losses; 0: none. Auxiliary: load balance within each packed row. Sequence
  // auxiliary: within each document, a mean over the tokens of the global batch. z: mean over
  // tokens of the squared log of the logits' sum of exp.
  double aux_coef = 0;
  double sequence_aux_coef = 0;
  double z_coef = 0;
  int layer = 0;  // where rows.replay holds this router's ids; another stream of the uniform gate
};

// x [tokens, hidden], w [experts, hidden]: logits in fp32 or wider, scored and chosen as
// ops/router.h says, or as rows.gate and rows.replay do. What it keeps for the backward are the
// logits and the ids: no backward and no recompute routes again. The losses add their gradients,
// times the seeds of `rows`, where the logits' gradient passes. With the balanced gate weights are
// 1 / top_k, no logits are made, and nothing reaches w.
Routed route(Tape& tape, const Value& x, Weight& w, const Rows& rows, const RouterOptions& options);

// After an optimizer step: bias [experts] of a router goes up by rate where the loads of the whole
// global batch, [experts] int64, are below their mean, down where above.
void correct_bias(Weight& bias, const at::Tensor& loads, double rate);

}  // namespace conclave::nn
