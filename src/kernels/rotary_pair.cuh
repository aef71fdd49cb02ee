// The rotation of N pairs, shared by the kernels of kernels/rotary.h.
#pragma once
#include "kernels/pack.cuh"

namespace conclave::kernels {

// (a, b) → (a·cos − b·sin, b·cos + a·sin); `sign` −1 turns back.
template <int N, class A>
CONCLAVE_DEVICE void rotate(A (&a)[N], A (&b)[N], const A* cos, const A* sin, A sign) {
  const Pack<A, N> c = load<N>(cos), s = load<N>(sin);
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const A turned = s.at[n] * sign, left = a[n], right = b[n];
    a[n] = left * c.at[n] - right * turned;
    b[n] = right * c.at[n] + left * turned;
  }
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
