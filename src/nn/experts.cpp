#include "nn/experts.h"

#include "nn/linear.h"
#include "ops/grouped_mlp.h"

namespace conclave::nn {
namespace {

ops::GroupedUp grouped_up(const Received& received, const ExpertWeights& w) {
  Part part("fc1");
  return ops::grouped_up(received.rows.data, {}, w.gate_up.data(),
                         w.gate_up_bias ? w.gate_up_bias->data() : at::Tensor(),
                         received.weights.data, received.offsets, w.activation);
}

}  // namespace

Value grouped_swiglu(Tape& tape, const Received& received, const ExpertWeights& w) {
  const ops::GroupedUp made = grouped_up(received, w);
  Value h = grouped_linear(tape, received.rows, w.gate_up, received.offsets, "gate_up",
                           w.gate_up_bias, nullptr, made.gate_up);       // [received, 2 · ffn]
  Value a = swiglu(tape, h, &received.weights, w.activation, made.act);  // [received, ffn]
  return grouped_linear(tape, a, w.down, received.offsets, "experts_out", w.down_bias,
                        w.down_bias ? &received.weights : nullptr);
}

Value dense_swiglu(Tape& tape, const Value& x, Weight& gate_up, Weight& down) {
  Value h = linear(tape, x, gate_up, nullptr, "gate_up");
  return linear(tape, swiglu(tape, h), down, nullptr, "experts_out");
}

}  // namespace conclave::nn
