// The experts' layer and the dense one: SwiGLU between two linears.
#pragma once
#include "nn/block.h"

namespace conclave::nn {

// received.rows [received, hidden] → [received, hidden]: each row through its expert, times its
// routing weight (applied between the two products, so the second one's output is not needed in the
// backward). gate_up [experts, 2 · ffn, hidden], down [experts, hidden, ffn].
Value grouped_swiglu(Tape& tape, const Received& received, Weight& gate_up, Weight& down);

// x [tokens, hidden] → [tokens, hidden]; gate_up [2 · ffn, hidden], down [hidden, ffn].
Value dense_swiglu(Tape& tape, const Value& x, Weight& gate_up, Weight& down);

}  // namespace conclave::nn
