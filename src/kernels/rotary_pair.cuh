// The rotation of N pairs, shared by the kernels of kernels/rotary.h.
#pragma once
#include "kernels/pack.cuh"

namespace conclave::kernels {

// (a, b) → (a·cos − b·sin, b·cos + a·sin); `sign` −1 turns back.
template <int N, class A>
CONCLAVE_DEVICE void rotate(A (&a)[N], A (&b)[N], const Pack<A, N>& cos, const Pack<A, N>& sin,
                            A sign) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const A turned = sin.at[n] * sign, left = a[n], right = b[n];
    a[n] = left * cos.at[n] - right * turned;
    b[n] = right * cos.at[n] + left * turned;
  }
}

// A template, as DEVICE_CHECK wants it.
template <class I>
CONCLAVE_DEVICE I checked_position(I position, I known) {
  DEVICE_CHECK(position >= 0 && position < known, "rotary: a position is outside of the table");
  return position;
}

}  // namespace conclave::kernels
