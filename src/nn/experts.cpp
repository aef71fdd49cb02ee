#include "nn/experts.h"

#include "nn/linear.h"

namespace conclave::nn {

Value grouped_swiglu(Tape& tape, const Received& received, Weight& gate_up, Weight& down) {
  Value h = grouped_linear(tape, received.rows, gate_up, received.offsets,
                           "gate_up");           // [received, 2 · ffn]
  Value a = swiglu(tape, h, &received.weights);  // [received, ffn]
  return grouped_linear(tape, a, down, received.offsets, "experts_out");
}

Value dense_swiglu(Tape& tape, const Value& x, Weight& gate_up, Weight& down) {
  Value h = linear(tape, x, gate_up, nullptr, "gate_up");
  return linear(tape, swiglu(tape, h), down, nullptr, "experts_out");
}

}  // namespace conclave::nn
