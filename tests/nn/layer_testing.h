// A layer under test: its weights, its inputs, its gradients in fp64 and what they are compared
// with.
#pragma once
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "nn/tape.h"
#include "nn/weight.h"

namespace conclave::nn::testing {

inline at::Tensor random(std::vector<int64_t> shape, unsigned seed) {  // −1 … 1
  std::mt19937 draw(seed);
  at::Tensor x = at::empty(shape, at::kDouble);
  for (int64_t i = 0; i < x.numel(); ++i)
    x.mutable_data_ptr<double>()[i] = static_cast<double>(draw()) / 2147483648.0 - 1;
  return x;
}

// A layer with its weights in one unit and its inputs. `run` leaves what it adds to the loss beside
// its output in `extra`.
struct Case {
  Unit dense{"dense", at::kDouble}, experts{"experts", at::kDouble};
  Weights weights{"", dense, &experts};
  std::vector<at::Tensor> inputs;
  std::function<Value(Tape&, const std::vector<Value>&)> run;
  double extra = 0;

  void fill() {
    for (Unit* u : {&dense, &experts}) {
      u->bind(random({u->layout().numel}, 3));
      u->bind_grad(at::zeros({u->layout().numel}, at::kDouble));
    }
  }
  std::vector<Value> values(Tape& tape) {
    std::vector<Value> v;
    for (const auto& x : inputs) v.push_back(tape.input(x));
    return v;
  }
  // Σ output · seed, plus what the layer adds by itself.
  double loss() {
    Tape tape(false);
    const Value out = run(tape, values(tape));
    return out.data.mul(random(out.data.sizes().vec(), 4)).sum().item().toDouble() + extra;
  }
  // Gradients of the inputs, then those of the units.
  std::vector<at::Tensor> gradients(std::set<std::string> recompute = {}) {
    for (Unit* u : {&dense, &experts}) u->grad().zero_();
    Tape tape(true, std::move(recompute));
    const auto in = values(tape);
    const Value out = run(tape, in);
    tape.seed(out, random(out.data.sizes().vec(), 4));
    tape.run_backward();
    tape.run_weight_gradients();
    std::vector<at::Tensor> g;
    for (const auto& v : in) g.push_back(tape.take_grad(v));
    g.push_back(dense.grad().clone());
    g.push_back(experts.grad().clone());
    return g;
  }
};

// d loss / d *entry by the five-point formula, whose error is of the fourth order.
inline double difference(Case& c, double* entry) {
  const double h = 1e-3, at = *entry;
  auto loss = [&](double step) {
    *entry = at + step * h;
    return c.loss();
  };
  const double d = (loss(-2) - 8 * loss(-1) + 8 * loss(1) - loss(2)) / (12 * h);
  *entry = at;
  return d;
}

inline void expect_gradients(Case& c) {
  const auto got = c.gradients();
  std::vector<at::Tensor> points = c.inputs;
  points.insert(points.end(), {c.dense.data(), c.experts.data()});
  ASSERT_EQ(got.size(), points.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (points[i].numel() == 0) continue;
    const at::Tensor g = got[i].contiguous();
    ASSERT_EQ(g.numel(), points[i].numel()) << "gradient " << i;
    for (int64_t j = 0; j < g.numel(); ++j) {
      const double want = difference(c, points[i].mutable_data_ptr<double>() + j);
      ASSERT_NEAR(g.const_data_ptr<double>()[j], want, 1e-9 * std::max(1.0, std::abs(want)))
          << "gradient " << i << " entry " << j;
    }
  }
  // Recompute of every class: the same bits.
  const auto again = c.gradients(
      {"norm", "qkv", "rotary", "attention", "linear", "gate_up", "swiglu", "experts_out"});
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(std::memcmp(got[i].contiguous().const_data_ptr(),
                          again[i].contiguous().const_data_ptr(), got[i].nbytes()),
              0)
        << "gradient " << i << " with recompute";
}

}  // namespace conclave::nn::testing
