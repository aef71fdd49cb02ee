// Packs: N elements of a row as one access of up to 16 bytes, and their arithmetic in fp32 (fp64
// for fp64). Sums over lanes and blocks in fixed order. What must hold of data is checked on the
// device.
#pragma once
#include <cuda_bf16.h>

#include <cstring>

#include "kernels/launch.h"

namespace conclave::kernels {

#define CONCLAVE_DEVICE __device__ __forceinline__

// A broken contract stops the device: the message goes to stderr, and every later CUDA call fails.
#define DEVICE_CHECK(condition, message)                                    \
  do {                                                                      \
    if (!(condition)) __assert_fail(message, __FILE__, __LINE__, __func__); \
  } while (0)

template <int bytes>
struct RawOf;
template <>
struct RawOf<2> {
  using type = uint16_t;
};
template <>
struct RawOf<4> {
  using type = uint32_t;
};
template <>
struct RawOf<8> {
  using type = uint2;
};
template <>
struct RawOf<16> {
  using type = uint4;
};

template <class T, int N>
struct Pack {
  T at[N];
};

// Elements of a 16-byte pack.
template <class T>
constexpr int kPack = 16 / sizeof(T);

// One access if N elements are at most 16 bytes, else 16 bytes at a time.
template <int N, class T>
CONCLAVE_DEVICE Pack<T, N> load(const T* from) {
  constexpr int kBytes = N * sizeof(T), kStep = kBytes < 16 ? kBytes : 16;
  using Raw = typename RawOf<kStep>::type;
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < kBytes / kStep; ++i) {
    const Raw raw = reinterpret_cast<const Raw*>(from)[i];
    memcpy(reinterpret_cast<char*>(&pack) + i * kStep, &raw, kStep);
  }
  return pack;
}

template <class T, int N>
CONCLAVE_DEVICE void store(T* to, const Pack<T, N>& pack) {
  constexpr int kBytes = N * sizeof(T), kStep = kBytes < 16 ? kBytes : 16;
  using Raw = typename RawOf<kStep>::type;
#pragma unroll
  for (int i = 0; i < kBytes / kStep; ++i) {
    Raw raw;
    memcpy(&raw, reinterpret_cast<const char*>(&pack) + i * kStep, kStep);
    reinterpret_cast<Raw*>(to)[i] = raw;
  }
}

CONCLAVE_DEVICE float wide(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
CONCLAVE_DEVICE float wide(float x) { return x; }
CONCLAVE_DEVICE double wide(double x) { return x; }

// A pack's elements as they are computed with. bf16 is taken apart two at a time.
template <class T, int N>
CONCLAVE_DEVICE void widen(acc_t<T> (&out)[N], const Pack<T, N>& pack) {
  if constexpr (std::is_same_v<T, bf16> && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      uint32_t two;
      memcpy(&two, &pack.at[i], sizeof(two));
      out[i] = __uint_as_float(two << 16);
      out[i + 1] = __uint_as_float(two & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = wide(pack.at[i]);
  }
}

// Rounds to the nearest T, ties to even.
template <class T>
CONCLAVE_DEVICE T narrow(acc_t<T> x) {
  if constexpr (std::is_same_v<T, bf16>)
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  else
    return x;
}

template <class T, int N>
CONCLAVE_DEVICE Pack<T, N> narrow(const acc_t<T> (&x)[N]) {
  Pack<T, N> pack;
  if constexpr (std::is_same_v<T, bf16> && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(x[i], x[i + 1]);
      memcpy(&pack.at[i], &two, sizeof(two));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = narrow<T>(x[i]);
  }
  return pack;
}

// What x becomes when it is stored as T and loaded again.
template <class T>
CONCLAVE_DEVICE acc_t<T> rounded(acc_t<T> x) {
  return wide(narrow<T>(x));
}

// row and column of place i in rows of `columns`. Most indices fit 32 bits, where division is
// quick.
CONCLAVE_DEVICE void split(int64_t i, int columns, int64_t& row, int& column) {
  if (i <= INT32_MAX) {
    const uint32_t place = static_cast<uint32_t>(i), of = static_cast<uint32_t>(columns);
    row = place / of;
    column = static_cast<int>(place % of);
  } else {
    row = i / columns;
    column = static_cast<int>(i % columns);
  }
}

CONCLAVE_DEVICE int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Σ over groups of kLanes neighbouring lanes, the same value in each. All lanes of the warp call
// it.
template <int kLanes, class A>
CONCLAVE_DEVICE A sum_of_lanes(A v) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

template <class A>
CONCLAVE_DEVICE A max_of_warp(A v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(0xffffffffu, v, step);
    v = other > v ? other : v;
  }
  return v;
}

// Σ over the kThreads threads of a block, the same value in each. All call it; a barrier stands
// before and after the exchange, so `parts` [kThreads / 32] may be used again at once.
template <int kThreads, class A>
CONCLAVE_DEVICE A sum_of_block(A v, A* parts) {
  v = sum_of_lanes<32>(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  A sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) sum += parts[i];
  return sum;
}

}  // namespace conclave::kernels
