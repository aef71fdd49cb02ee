// Vectors of the widest registers of this processor, for the inner loops of CPU ops: loads that
// widen, stores that round, sums in a fixed order, exp. A loop body is written once and runs on
// full vectors, then on the rest of the row:
//   sweep<float>(hidden, [&](int64_t i, auto lanes) { store(y + i, load(x + i, lanes) * scale,
//   lanes); });
// S is the type in memory (float, double, BFloat16), A = acc_t<S> the type that is computed in
// (float, double, float).
#pragma once
#include <c10/util/BFloat16.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace conclave::ops {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class S>
using acc_t = std::conditional_t<std::is_same_v<S, c10::BFloat16>, float, S>;

template <class A, int bytes = kVectorBytes>
struct VecOf {
  typedef A type __attribute__((vector_size(bytes)));
};
template <class A>
using Vec = typename VecOf<A>::type;
template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

struct AllLanes {};  // a full vector; otherwise the number of lanes is an int

template <class A>
inline Vec<A> broadcast(A value) {
  return value - Vec<A>{};
}

template <class S>
inline Vec<acc_t<S>> load(const S* from, AllLanes = {}) {
  if constexpr (std::is_same_v<S, c10::BFloat16>) {
    typename VecOf<uint16_t, kVectorBytes / 2>::type half;
    std::memcpy(&half, from, sizeof(half));
    return std::bit_cast<Vec<float>>(__builtin_convertvector(half, Vec<uint32_t>) << 16);
  } else {
    Vec<S> v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
}

// Lanes beyond `lanes` are 0.
template <class S>
inline Vec<acc_t<S>> load(const S* from, int lanes) {
  S part[kLanes<acc_t<S>>] = {};
  for (int i = 0; i < lanes; ++i) part[i] = from[i];
  return load(part);
}

// Rounds to the nearest S, ties to even.
template <class S>
inline void store(S* to, Vec<acc_t<S>> v, AllLanes = {}) {
  if constexpr (std::is_same_v<S, c10::BFloat16>) {
    const auto bits = std::bit_cast<Vec<uint32_t>>(v);
    const auto rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const auto nan = Vec<uint32_t>{} + 0x7fc0;
    const auto half = __builtin_convertvector(v == v ? rounded : nan,
                                              typename VecOf<uint16_t, kVectorBytes / 2>::type);
    std::memcpy(to, &half, sizeof(half));
  } else {
    std::memcpy(to, &v, sizeof(v));
  }
}

template <class S>
inline void store(S* to, Vec<acc_t<S>> v, int lanes) {
  S part[kLanes<acc_t<S>>];
  store(part, v);
  for (int i = 0; i < lanes; ++i) to[i] = part[i];
}

// Two vectors whose elements alternate in memory: first[0], second[0], first[1] …
template <class A>
struct Pairs {
  Vec<A> first, second;
};

// 2 · kLanes elements; of `lanes` pairs the rest is 0.
template <class S>
inline Pairs<acc_t<S>> load_pairs(const S* from, AllLanes = {}) {
  using A = acc_t<S>;
  using Mask = Vec<std::conditional_t<sizeof(A) == 4, int32_t, int64_t>>;
  Mask even;
  for (int i = 0; i < kLanes<A>; ++i) even[i] = 2 * i;
  const Vec<A> low = load(from), high = load(from + kLanes<A>);
  return {__builtin_shuffle(low, high, even), __builtin_shuffle(low, high, even + 1)};
}

template <class S>
inline Pairs<acc_t<S>> load_pairs(const S* from, int lanes) {
  S part[2 * kLanes<acc_t<S>>] = {};
  for (int i = 0; i < 2 * lanes; ++i) part[i] = from[i];
  return load_pairs(part);
}

template <class S>
inline void store_pairs(S* to, Vec<acc_t<S>> first, Vec<acc_t<S>> second, AllLanes = {}) {
  using A = acc_t<S>;
  using Mask = Vec<std::conditional_t<sizeof(A) == 4, int32_t, int64_t>>;
  constexpr int kHalf = kLanes<A> / 2;
  Mask low;  // of the elements first, second as one vector
  for (int i = 0; i < kLanes<A>; ++i) low[i] = i / 2 + (i % 2) * kLanes<A>;
  store(to, __builtin_shuffle(first, second, low));
  store(to + kLanes<A>, __builtin_shuffle(first, second, low + kHalf));
}

template <class S>
inline void store_pairs(S* to, Vec<acc_t<S>> first, Vec<acc_t<S>> second, int lanes) {
  S part[2 * kLanes<acc_t<S>>];
  store_pairs(part, first, second);
  for (int i = 0; i < 2 * lanes; ++i) to[i] = part[i];
}

// What v becomes when it is stored as S and loaded again.
template <class S>
inline Vec<acc_t<S>> rounded_to(Vec<acc_t<S>> v) {
  if constexpr (std::is_same_v<S, acc_t<S>>) return v;
  S part[kLanes<acc_t<S>>];
  store(part, v);
  return load(part);
}

template <class A>
inline A sum(Vec<A> v) {
  A part[kLanes<A>];
  std::memcpy(part, &v, sizeof(v));
  for (int half = kLanes<A> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// f(i, lanes) for i = 0, kLanes, 2 · kLanes … < n.
template <class A, class F>
inline void sweep(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) f(i, AllLanes{});
  if (i < n) f(i, static_cast<int>(n - i));
}

// Σ of the vectors f(i, lanes), i as above; f leaves 0 in the lanes beyond the end.
template <class A, class F>
inline A sum_over(int64_t n, const F& f) {
  constexpr int kSums = 4;  // hides the latency of an addition
  Vec<A> s[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kLanes<A> <= n; i += kSums * kLanes<A>)
    for (int j = 0; j < kSums; ++j) s[j] += f(i + j * kLanes<A>, AllLanes{});
  for (; i + kLanes<A> <= n; i += kLanes<A>) s[0] += f(i, AllLanes{});
  if (i < n) s[1] += f(i, static_cast<int>(n - i));
  return sum<A>((s[0] + s[1]) + (s[2] + s[3]));
}

// eˣ within 1.1 ulp, also where the result is subnormal; 0 and inf beyond, NaN for NaN. Polynomial
// of Cephes' expf.
inline Vec<float> exp(Vec<float> x) {
  constexpr float kMagic =
      0x1.8p23f;  // adding it rounds to an integer, which then stands in the low bits
  x = x < -104.f ? Vec<float>{} - 104.f : x;
  x = x > 89.f ? Vec<float>{} + 89.f : x;
  const Vec<float> shifted = x * 0x1.715476p0f + kMagic;
  const Vec<float> n = shifted - kMagic;
  const Vec<float> r =
      (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;  // ln 2 in two parts, the first of 15 bits
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  // 2ⁿ in two factors, so that neither leaves fp32's normal numbers.
  const auto power = std::bit_cast<Vec<int32_t>>(shifted) - std::bit_cast<int32_t>(kMagic);
  const auto first = power >> 1;
  const auto scale = [](Vec<int32_t> e) {
    return std::bit_cast<Vec<float>>(std::bit_cast<Vec<uint32_t>>(e + 127) << 23);
  };
  return p * scale(first) * scale(power - first);
}

inline Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

}  // namespace conclave::ops
