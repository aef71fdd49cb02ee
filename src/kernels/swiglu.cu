// Forward: a thread makes one pack of N outputs from two packs, flat over rows · packs. Backward: a
// warp takes a row, its lanes every 32nd pack, so the gradient of the row's weight is a sum of
// lanes. 256 threads a block.
#include "kernels/pack.cuh"
#include "kernels/swiglu.h"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256;
constexpr double kLimit = 7, kAlpha = 1.702;

// bf16 keeps 8 bits of the result, so the approximate exponential and quotient (2 ulp and a few of
// fp32) do; the others get the exact ones.
template <class T>
CONCLAVE_DEVICE acc_t<T> sigmoid(acc_t<T> x) {
  if constexpr (std::is_same_v<T, bf16>)
    return __fdividef(1.f, 1.f + __expf(-x));
  else
    return acc_t<T>(1) / (acc_t<T>(1) + exp(-x));
}

// gate and up of N outputs, as they lie in a row.
template <class T, int N, bool kClamped>
struct GateUp {
  acc_t<T> gate[N], up[N];

  CONCLAVE_DEVICE GateUp(const T* row, int i, int64_t ffn) {
    const Pack<T, N> first = load<N>(row + (kClamped ? 2 * i : i)),
                     second = load<N>(row + (kClamped ? 2 * i + N : ffn + i));
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if constexpr (kClamped) {
        gate[n] = wide(2 * n < N ? first.at[2 * n] : second.at[2 * n - N]);
        up[n] = wide(2 * n + 1 < N ? first.at[2 * n + 1] : second.at[2 * n + 1 - N]);
      } else {
        gate[n] = wide(first.at[n]);
        up[n] = wide(second.at[n]);
      }
    }
  }

  // Writes this, taken as gradients.
  CONCLAVE_DEVICE void write(T* row, int i, int64_t ffn) const {
    acc_t<T> first[N], second[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if constexpr (kClamped) {
        first[n] = n % 2 ? up[n / 2] : gate[n / 2];
        second[n] = (N + n) % 2 ? up[(N + n) / 2] : gate[(N + n) / 2];
      } else {
        first[n] = gate[n];
        second[n] = up[n];
      }
    }
    store(row + (kClamped ? 2 * i : i), narrow<T>(first));
    store(row + (kClamped ? 2 * i + N : ffn + i), narrow<T>(second));
  }
};

// NaN stays NaN, as in ATen's clamp.
template <class A>
CONCLAVE_DEVICE A clamp_above(A x, A most) {
  return x > most ? most : x;
}
template <class A>
CONCLAVE_DEVICE A clamp_below(A x, A least) {
  return x < least ? least : x;
}

template <class T, bool kClamped>
CONCLAVE_DEVICE acc_t<T> activation(acc_t<T> gate, acc_t<T> up) {
  using A = acc_t<T>;
  if constexpr (kClamped) {
    const A g = clamp_above(gate, A(kLimit)),
            u = clamp_below(clamp_above(up, A(kLimit)), A(-kLimit));
    return g * sigmoid<T>(A(kAlpha) * g) * (u + A(1));
  } else {
    return gate * sigmoid<T>(gate) * up;
  }
}

// Turns gate and up into the gradients that dh, the gradient of the activation, gives them; returns
// the activation. No gradient beyond a clamp.
template <class T, bool kClamped>
CONCLAVE_DEVICE acc_t<T> differentiate(acc_t<T>& gate, acc_t<T>& up, acc_t<T> dh) {
  using A = acc_t<T>;
  if constexpr (kClamped) {
    const A g = clamp_above(gate, A(kLimit)),
            u = clamp_below(clamp_above(up, A(kLimit)), A(-kLimit)) + A(1);
    const A s = sigmoid<T>(A(kAlpha) * g), gated = g * s;
    const bool gate_passes = !(gate > A(kLimit)),
               up_passes = !(up > A(kLimit)) && !(up < A(-kLimit));
    gate = gate_passes ? dh * u * (s + A(kAlpha) * gated * (A(1) - s)) : A(0);
    up = up_passes ? dh * gated : A(0);
    return gated * u;
  } else {
    const A s = sigmoid<T>(gate), silu = gate * s, u = up;
    gate = dh * u * (s + silu * (A(1) - s));
    up = dh * silu;
    return silu * u;
  }
}

template <class T, int N, bool kClamped>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(T* y, const T* gate_up, const acc_t<T>* weights, int64_t units, int64_t ffn) {
  using A = acc_t<T>;
  const int64_t unit = global_thread();
  if (unit >= units) return;
  int64_t row;
  int part;
  split(unit, static_cast<int>(ffn / N), row, part);
  const GateUp<T, N, kClamped> h(gate_up + row * 2 * ffn, part * N, ffn);
  const A weight = weights ? weights[row] : A(1);
  A out[N];
#pragma unroll
  for (int n = 0; n < N; ++n) out[n] = activation<T, kClamped>(h.gate[n], h.up[n]) * weight;
  store(y + row * ffn + part * N, narrow<T>(out));
}

template <class T, int N, bool kClamped>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(T* dgate_up, acc_t<T>* dweights, const T* dy, const T* gate_up,
                    const acc_t<T>* weights, int64_t rows, int64_t ffn) {
  using A = acc_t<T>;
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;  // a whole warp
  const A weight = weights ? weights[row] : A(1);
  A sum = 0;
#pragma unroll 2
  for (int i = lane * N; i < ffn; i += 32 * N) {
    const Pack<T, N> dh = load<N>(dy + row * ffn + i);
    GateUp<T, N, kClamped> h(gate_up + row * 2 * ffn, i, ffn);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const A d = wide(dh.at[n]);
      sum += d * differentiate<T, kClamped>(h.gate[n], h.up[n], d * weight);
    }
    h.write(dgate_up + row * 2 * ffn, i, ffn);
  }
  if (!dweights) return;
  sum = sum_of_lanes<32>(sum);
  if (lane == 0) dweights[row] = sum;
}

template <class T, int N, bool kClamped>
void launch_forward(T* y, const T* gate_up, const acc_t<T>* weights, const SwigluSizes& s,
                    cudaStream_t stream) {
  const int64_t units = s.rows * (s.ffn / N);
  forward_kernel<T, N, kClamped>
      <<<static_cast<unsigned>(blocks_of(units, kThreads)), kThreads, 0, stream>>>(
          y, gate_up, weights, units, s.ffn);
}

template <class T, int N, bool kClamped>
void launch_backward(T* dgate_up, acc_t<T>* dweights, const T* dy, const T* gate_up,
                     const acc_t<T>* weights, const SwigluSizes& s, cudaStream_t stream) {
  backward_kernel<T, N, kClamped>
      <<<static_cast<unsigned>(blocks_of(s.rows, kThreads / 32)), kThreads, 0, stream>>>(
          dgate_up, dweights, dy, gate_up, weights, s.rows, s.ffn);
}

// f(elements of a pack, clamped) as compile-time constants.
template <class T, class F>
void with_form(const SwigluSizes& s, bool aligned, const F& f) {
  constexpr int N = kPack<T>;
  if (aligned && s.ffn % N == 0)
    s.clamped ? f.template operator()<N, true>() : f.template operator()<N, false>();
  else
    s.clamped ? f.template operator()<1, true>() : f.template operator()<1, false>();
}

}  // namespace

template <class T>
void swiglu(T* y, const T* gate_up, const acc_t<T>* weights, const SwigluSizes& s,
            cudaStream_t stream) {
  if (s.rows == 0 || s.ffn == 0) return;
  with_form<T>(s, aligned16(0, y, gate_up), [&]<int N, bool kClamped>() {
    launch_forward<T, N, kClamped>(y, gate_up, weights, s, stream);
  });
  check_launch("swiglu");
}

template <class T>
void swiglu_backward(T* dgate_up, acc_t<T>* dweights, const T* dy, const T* gate_up,
                     const acc_t<T>* weights, const SwigluSizes& s, cudaStream_t stream) {
  if (s.rows == 0) return;
  with_form<T>(s, aligned16(0, dgate_up, dy, gate_up), [&]<int N, bool kClamped>() {
    launch_backward<T, N, kClamped>(dgate_up, dweights, dy, gate_up, weights, s, stream);
  });
  check_launch("swiglu_backward");
}

#define INSTANTIATE(T)                                                                      \
  template void swiglu<T>(T*, const T*, const acc_t<T>*, const SwigluSizes&, cudaStream_t); \
  template void swiglu_backward<T>(T*, acc_t<T>*, const T*, const T*, const acc_t<T>*,      \
                                   const SwigluSizes&, cudaStream_t)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(bf16);

}  // namespace conclave::kernels
