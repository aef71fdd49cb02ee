// Layers that are matrix products, and the sum of a residual.
#pragma once
#include <utility>

#include "nn/tape.h"
#include "nn/weight.h"
#include "ops/swiglu.h"

namespace conclave::nn {

// x [tokens, in] → x · wᵀ (+ bias) [tokens, out]; w [out, in], bias [out] or none. `tensor_class`
// names the output for the memory plan.
Value linear(Tape& tape, const Value& x, Weight& w, Weight* bias = nullptr,
             const char* tensor_class = "linear");

// x [rows, in], rows offsets[e] … offsets[e+1) with w[e] [out, in] → [rows, out]. With a bias
// [experts, out] plus bias[e], times bias_weights [rows] where given. `made`: that result, where it
// is there already.
Value grouped_linear(Tape& tape, const Value& x, Weight& w, const at::Tensor& offsets,
                     const char* tensor_class, Weight* bias = nullptr,
                     const Value* bias_weights = nullptr, at::Tensor made = {});

// gate_up [rows, 2 · ffn] → [rows, ffn], activated, times weights [rows] or none (ops/swiglu.h);
// `made` as above.
Value swiglu(Tape& tape, const Value& gate_up, const Value* weights = nullptr,
             ops::Activation activation = ops::Activation::swiglu, at::Tensor made = {});

// x [tokens, a + b] → its first `a` columns and the others, each in rows of its own; class "qkv".
std::pair<Value, Value> split(Tape& tape, const Value& x, int64_t a);

// x [tokens, a + b] → its first `a` columns and the others, each in rows of its own; class "qkv".
std::pair<Value, Value> split(Tape& tape, const Value& x, int64_t a);

Value add(Tape& tape, const Value& a, const Value& b);

// a [tokens, m], b [tokens, n] → [tokens, m + n].
Value concat(Tape& tape, const Value& a, const Value& b);

// ids [tokens] → rows of w [vocab, hidden]. The token `padding` leaves no gradient in its row.
Value embedding(Tape& tape, const at::Tensor& ids, Weight& w, int64_t padding = -1);

}  // namespace conclave::nn
