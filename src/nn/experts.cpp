#include "nn/experts.h"

#include "nn/linear.h"

namespace conclave::nn {

Value grouped_swiglu(Tape& tape, const Received& received, const ExpertWeights& w) {
  Value h = grouped_linear(tape, received.rows, w.gate_up, received.offsets, "gate_up",
                           w.gate_up_bias);                    // [received, 2 · ffn]
  Value a = swiglu(tape, h, &received.weights, w.activation);  // [received, ffn]
  return grouped_linear(tape, a, w.down, received.offsets, "experts_out", w.down_bias,
                        w.down_bias ? &received.weights : nullptr);
}

Value dense_swiglu(Tape& tape, const Value& x, Weight& gate_up, Weight& down) {
  Value h = linear(tape, x, gate_up, nullptr, "gate_up");
  return linear(tape, swiglu(tape, h), down, nullptr, "experts_out");
}

}  // namespace conclave::nn
