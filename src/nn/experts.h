// The experts' layer and the dense one: SwiGLU between two linears.
#pragma once
#include "nn/block.h"
#include "ops/swiglu.h"

namespace conclave::nn {

struct ExpertWeights {
  Weight& gate_up;                 // [experts, 2 · ffn, hidden], rows in the activation's order
  Weight& down;                    // [experts, hidden, ffn]
  Weight* gate_up_bias = nullptr;  // [experts, 2 · ffn]
  Weight* down_bias = nullptr;     // [experts, hidden]
  ops::Activation activation = ops::Activation::swiglu;
};

// received.rows [received, hidden] → [received, hidden]: each row through its expert, times its
// routing weight: applied between the two products, so the second one's output is not needed in the
// backward, and to down's bias.
Value grouped_swiglu(Tape& tape, const Received& received, const ExpertWeights& w);

// x [tokens, hidden] → [tokens, hidden]; gate_up [2 · ffn, hidden], down [hidden, ffn].
Value dense_swiglu(Tape& tape, const Value& x, Weight& gate_up, Weight& down);

}  // namespace conclave::nn
