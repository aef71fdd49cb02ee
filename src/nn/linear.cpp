#include "nn/linear.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <string_view>

#include "ops/embedding.h"
#include "ops/grouped_bias.h"
#include "ops/matmul.h"

namespace conclave::nn {

Value linear(Tape& tape, const Value& x, Weight& w, Weight* bias, const char* tensor_class) {
  Part part("projections");
  Saved saved = tape.save(x);
  auto forward = [&w, bias](const at::Tensor& x) {
    return ops::linear(x, w.data(), bias ? bias->data() : at::Tensor());
  };
  Value y = tape.record(forward(x.data), [=, id = x.id, &w](Tape& tape, const at::Tensor& dy) {
    if (at::Tensor* sum = tape.own_sum(id))
      ops::linear_backward_input_(*sum, dy, w.data());
    else
      tape.add_grad(id, ops::linear_backward_input(dy, w.data()), /*own=*/true);
    tape.later([=, &w] {
      ops::linear_backward_weight_(w.grad(), dy, saved.get());
      if (bias) ops::column_sum_(bias->grad(), dy);
    });
  });
  y.made_again_by(tensor_class, [=] { return forward(saved.get()); });
  return y;
}

Value grouped_linear(Tape& tape, const Value& x, Weight& w, const at::Tensor& offsets,
                     const char* tensor_class, Weight* bias, const Value* bias_weights,
                     at::Tensor made) {
  Part part(tensor_class == std::string_view("gate_up") ? "fc1" : "fc2");
  Saved saved = tape.save(x);
  Saved saved_weights = bias_weights ? tape.save(*bias_weights) : Saved();
  const int weights_id = bias_weights ? bias_weights->id : -1;
  auto forward = [=, &w](const at::Tensor& x, const at::Tensor& weights) {
    return ops::grouped_linear(x, w.data(), offsets, bias ? bias->data() : at::Tensor(), weights);
  };
  if (!made.defined()) made = forward(x.data, bias_weights ? bias_weights->data : at::Tensor());
  Value y = tape.record(made, [=, id = x.id, &w](Tape& tape, const at::Tensor& dy) {
    tape.add_grad(id, ops::grouped_linear_backward_input(dy, w.data(), offsets));
    if (weights_id >= 0)
      tape.add_grad(weights_id, ops::grouped_bias_backward_weights(dy, bias->data(), offsets));
    tape.later([=, &w] {
      ops::grouped_linear_backward_weight_(w.grad(), dy, saved.get(), offsets);
      if (bias) ops::grouped_bias_backward_(bias->grad(), dy, offsets, saved_weights.get());
    });
  });
  y.made_again_by(tensor_class, [=] { return forward(saved.get(), saved_weights.get()); });
  return y;
}

Value swiglu(Tape& tape, const Value& gate_up, const Value* weights, ops::Activation activation,
             at::Tensor made) {
  Part part("activation");
  Saved saved = tape.save(gate_up);
  Saved saved_weights = weights ? tape.save(*weights) : Saved();
  const int weights_id = weights ? weights->id : -1;
  if (!made.defined())
    made = ops::swiglu(gate_up.data, weights ? weights->data : at::Tensor(), activation);
  Value y = tape.record(made, [=, id = gate_up.id](Tape& tape, const at::Tensor& dy) {
    auto [dgate_up, dweights] =
        ops::swiglu_backward(dy, saved.get(), saved_weights.get(), activation);
    tape.add_grad(id, dgate_up);
    tape.add_grad(weights_id, dweights);
  });
  y.made_again_by("swiglu",
                  [=] { return ops::swiglu(saved.get(), saved_weights.get(), activation); });
  return y;
}

std::pair<Value, Value> split(Tape& tape, const Value& x, int64_t a) {
  Part part("norms and rotary");
  const int64_t tokens = x.data.size(0), width = x.data.size(1);
  Saved saved = tape.recomputes("qkv") ? tape.save(x) : Saved();
  auto columns = [&](int64_t first, int64_t n) {
    auto cut = [=](const at::Tensor& x) { return x.narrow(1, first, n).contiguous(); };
    Value y = tape.record(cut(x.data), [=, id = x.id](Tape& tape, const at::Tensor& dy) {
      at::Tensor dx = at::zeros({tokens, width}, dy.options());
      dx.narrow(1, first, n).copy_(dy);
      tape.add_grad(id, dx);
    });
    y.made_again_by("qkv", [=] { return cut(saved.get()); });
    return y;
  };
  Value left = columns(0, a), right = columns(a, width - a);
  return {std::move(left), std::move(right)};
}

Value add(Tape& tape, const Value& a, const Value& b) {
  Part part("residual");
  return tape.record(at::add(a.data, b.data),
                     [ia = a.id, ib = b.id](Tape& tape, const at::Tensor& dy) {
                       tape.add_grad(ia, dy);
                       tape.add_grad(ib, dy);
                     });
}

Value concat(Tape& tape, const Value& a, const Value& b) {
  const int64_t m = a.data.size(1), n = b.data.size(1);
  return tape.record(at::cat({a.data, b.data}, 1),
                     [ia = a.id, ib = b.id, m, n](Tape& tape, const at::Tensor& dy) {
                       tape.add_grad(ia, dy.narrow(1, 0, m).contiguous());
                       tape.add_grad(ib, dy.narrow(1, m, n).contiguous());
                     });
}

Value embedding(Tape& tape, const at::Tensor& ids, Weight& w, int64_t padding) {
  return tape.record(ops::embedding(ids, w.data()), [=, &w](Tape& tape, const at::Tensor& dy) {
    tape.later([=, &w] { ops::embedding_backward_(w.grad(), ids, dy, padding); });
  });
}

}  // namespace conclave::nn
