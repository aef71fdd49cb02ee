// The rotation of N pairs, shared by the kernels of kernels/rotary.h.
#pragma once
#include "kernels/pack.cuh"

namespace conclave::kernels {

// The angles' cosines and sines of N pairs.
template <int N, class A>
struct Turn {
  Pack<A, N> cos, sin;
  CONCLAVE_DEVICE void read(const A* cos_at, const A* sin_at) {
    cos = load<N>(cos_at);
    sin = load<N>(sin_at);
  }
};

// (a, b) → (a·cos − b·sin, b·cos + a·sin); `sign` −1 turns back.
template <int N, class A>
CONCLAVE_DEVICE void rotate(A (&a)[N], A (&b)[N], const Turn<N, A>& turn, A sign) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const A turned = turn.sin.at[n] * sign, left = a[n], right = b[n];
    a[n] = left * turn.cos.at[n] - right * turned;
    b[n] = right * turn.cos.at[n] + left * turned;
  }
}
template <int N, class A>
CONCLAVE_DEVICE void rotate(A (&a)[N], A (&b)[N], const A* cos, const A* sin, A sign) {
  Turn<N, A> turn;
  turn.read(cos, sin);
  rotate<N>(a, b, turn, sign);
}

template <class T>
CONCLAVE_DEVICE int64_t checked_position(const RotaryArgs<T>& a, int64_t position) {
  DEVICE_CHECK(position >= 0 && position < a.known, "rotary: a position is outside of the table");
  return position;
}
template <class T>
CONCLAVE_DEVICE int64_t position_of(const RotaryArgs<T>& a, int64_t token) {
  return checked_position(a, a.positions[token]);
}

}  // namespace conclave::kernels
