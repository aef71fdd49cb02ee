// RMSNorm on hidden states.
#pragma once
#include "nn/tape.h"
#include "nn/weight.h"

namespace conclave::nn {

// x [tokens, hidden], w [hidden] → same shape; class "norm".
Value rms_norm(Tape& tape, const Value& x, Weight& w, double eps);

}  // namespace conclave::nn
