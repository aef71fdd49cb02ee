#include "ops/swiglu.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/simd.h"
#include "ops/swiglu_cuda.h"

namespace conclave::ops {
namespace {

constexpr int64_t kCost = 8;  // elementary operations an element: an exponential and a division

template <class A>
Vec<A> sigmoid(Vec<A> x) {
  return A(1) / (A(1) + exp(-x));
}

constexpr double kSlope = 1.702, kLimit = 7;  // of clamped_swiglu

template <class A>
Vec<A> at_most(Vec<A> x, A limit) {  // NaN stays
  return x > limit ? broadcast(limit) : x;
}

template <class A>
Vec<A> at_least(Vec<A> x, A limit) {
  return x < limit ? broadcast(limit) : x;
}

template <class S>
void forward_row(S* y, const S* gate_up, acc_t<S> weight, int64_t ffn) {
  sweep<acc_t<S>>(ffn, [&](int64_t i, auto lanes) {
    const Vec<acc_t<S>> g = load(gate_up + i, lanes), u = load(gate_up + ffn + i, lanes);
    store(y + i, g * sigmoid<acc_t<S>>(g) * u * weight, lanes);
  });
}

template <class S>
void clamped_forward_row(S* y, const S* gate_up, acc_t<S> weight, int64_t ffn) {
  using A = acc_t<S>;
  sweep<A>(ffn, [&](int64_t i, auto lanes) {
    const auto [gate, up] = load_pairs(gate_up + 2 * i, lanes);
    const Vec<A> g = at_most<A>(gate, kLimit);
    const Vec<A> u = at_least<A>(at_most<A>(up, kLimit), -kLimit);
    store(y + i, g * sigmoid<A>(g * A(kSlope)) * (u + A(1)) * weight, lanes);
  });
}

// Returns Σ dy · silu(gate) · up, the gradient of the row's weight. silu' = σ + silu · (1 − σ).
template <class S>
acc_t<S> backward_row(S* dgate_up, const S* dy, const S* gate_up, acc_t<S> weight, int64_t ffn) {
  using A = acc_t<S>;
  return sum_over<A>(ffn, [&](int64_t i, auto lanes) {
    const Vec<A> g = load(gate_up + i, lanes), u = load(gate_up + ffn + i, lanes);
    const Vec<A> dh = load(dy + i, lanes), s = sigmoid<A>(g), silu = g * s;
    store(dgate_up + i, dh * weight * u * (s + silu * (A(1) - s)), lanes);
    store(dgate_up + ffn + i, dh * weight * silu, lanes);
    return dh * silu * u;
  });
}

// The same for gate · σ(1.702 · gate) · (up + 1); a clamp at its very limit lets the gradient pass.
template <class S>
acc_t<S> clamped_backward_row(S* dgate_up, const S* dy, const S* gate_up, acc_t<S> weight,
                              int64_t ffn) {
  using A = acc_t<S>;
  return sum_over<A>(ffn, [&](int64_t i, auto lanes) {
    const auto [gate, up] = load_pairs(gate_up + 2 * i, lanes);
    const Vec<A> g = at_most<A>(gate, kLimit), u = at_least<A>(at_most<A>(up, kLimit), -kLimit);
    const Vec<A> dh = load(dy + i, lanes), s = sigmoid<A>(g * A(kSlope)), glu = g * s;
    const Vec<A> dgate = dh * weight * (u + A(1)) * (s + glu * A(kSlope) * (A(1) - s));
    const Vec<A> dup = dh * weight * glu;
    store_pairs(dgate_up + 2 * i, gate > A(kLimit) ? Vec<A>{} : dgate,
                (up > A(kLimit)) | (up < A(-kLimit)) ? Vec<A>{} : dup, lanes);
    return dh * glu * (u + A(1));
  });
}

void check_operands(const at::Tensor& gate_up, const at::Tensor& weights) {
  TORCH_CHECK(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0,
              "gate_up: expected [rows, 2 · ffn], got ", gate_up.sizes());
  const int64_t rows = gate_up.size(0), ffn = gate_up.size(1) / 2;
  CHECK_SHAPE(gate_up, rows, 2 * ffn);
  if (!weights.defined()) return;
  CHECK_SHAPE(weights, rows);
  CHECK_DTYPE(weights, at::toOpMathType(gate_up.scalar_type()));
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up, const at::Tensor& weights, Activation activation) {
  check_operands(gate_up, weights);
  if constexpr (kCudaBuild)
    if (gate_up.is_cuda()) return cuda::swiglu(gate_up, weights, activation);
  const int64_t rows = gate_up.size(0), ffn = gate_up.size(1) / 2;
  at::Tensor y = at::empty({rows, ffn}, gate_up.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, gate_up.scalar_type(), "swiglu", [&] {
    using A = acc_t<scalar_t>;
    const auto row =
        activation == Activation::swiglu ? forward_row<scalar_t> : clamped_forward_row<scalar_t>;
    const scalar_t* from = gate_up.const_data_ptr<scalar_t>();
    const A* w = weights.defined() ? weights.const_data_ptr<A>() : nullptr;
    scalar_t* to = y.data_ptr<scalar_t>();
    each_block(rows, ffn * kCost,
               [&](int64_t r) { row(to + r * ffn, from + 2 * r * ffn, w ? w[r] : A(1), ffn); });
  });
  return y;
}

SwigluGrad swiglu_backward(const at::Tensor& dy, const at::Tensor& gate_up,
                           const at::Tensor& weights, Activation activation) {
  check_operands(gate_up, weights);
  const int64_t rows = gate_up.size(0), ffn = gate_up.size(1) / 2;
  CHECK_SHAPE(dy, rows, ffn);
  CHECK_DTYPE(dy, gate_up.scalar_type());
  if constexpr (kCudaBuild)
    if (gate_up.is_cuda()) return cuda::swiglu_backward(dy, gate_up, weights, activation);
  at::Tensor dgate_up = at::empty_like(gate_up), dweights;
  if (weights.defined()) dweights = at::empty_like(weights);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, gate_up.scalar_type(), "swiglu_backward", [&] {
    using A = acc_t<scalar_t>;
    const auto row =
        activation == Activation::swiglu ? backward_row<scalar_t> : clamped_backward_row<scalar_t>;
    const scalar_t *from = gate_up.const_data_ptr<scalar_t>(), *dh = dy.const_data_ptr<scalar_t>();
    const A* w = weights.defined() ? weights.const_data_ptr<A>() : nullptr;
    A* dw = weights.defined() ? dweights.data_ptr<A>() : nullptr;
    scalar_t* to = dgate_up.data_ptr<scalar_t>();
    each_block(rows, ffn * 2 * kCost, [&](int64_t r) {
      const A sum = row(to + 2 * r * ffn, dh + r * ffn, from + 2 * r * ffn, w ? w[r] : A(1), ffn);
      if (dw) dw[r] = sum;
    });
  });
  return {dgate_up, dweights};
}

}  // namespace conclave::ops
