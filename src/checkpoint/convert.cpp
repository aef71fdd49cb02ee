#include "checkpoint/convert.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace conclave::checkpoint {
namespace {

// fp64 → fp32 rounded to odd: truncated, with the last bit set if anything was cut off. A second
// rounding to a type at least two bits narrower then equals one rounding of the original (Boldo and
// Melquiond, 2008).
float to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(nearest) == value) return nearest;
  auto bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value))
    --bits;  // towards zero; infinity → the largest
  return std::bit_cast<float>(bits | 1);
}

template <class To, class From>
To convert_one(From value) {
  if constexpr (std::is_same_v<From, To>)
    return value;
  else if constexpr (std::is_same_v<From, double> && sizeof(To) == 2)
    return static_cast<To>(to_odd(value));
  else
    return static_cast<To>(value);
}

// Memory of a file need not be aligned: values go through memcpy, which compiles to plain loads.
template <class From, class To>
void convert_all(const void* from, void* to, int64_t n) {
  const auto* source = static_cast<const unsigned char*>(from);
  auto* target = static_cast<To*>(to);
  for (int64_t i = 0; i < n; ++i) {
    From value;
    std::memcpy(&value, source + i * static_cast<int64_t>(sizeof value), sizeof value);
    target[i] = convert_one<To>(value);
  }
}

template <class F>
void with_type(at::ScalarType dtype, const F& f) {
  switch (dtype) {
    case at::kHalf:
      return f(c10::Half());
    case at::kBFloat16:
      return f(c10::BFloat16());
    case at::kFloat:
      return f(float());
    case at::kDouble:
      return f(double());
    default:
      TORCH_CHECK(false, "convert: expected fp16, bf16, fp32 or fp64, got ", dtype);
  }
}

bool is_float(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat ||
         dtype == at::kDouble;
}

}  // namespace

bool can_convert(at::ScalarType from, at::ScalarType to) {
  return from == to || (is_float(from) && is_float(to));
}

void convert(const void* from, at::ScalarType from_dtype, void* to, at::ScalarType to_dtype,
             int64_t n) {
  if (from_dtype == to_dtype) {
    if (n > 0) std::memcpy(to, from, static_cast<size_t>(n) * c10::elementSize(to_dtype));
    return;
  }
  with_type(from_dtype, [&](auto f) {
    with_type(to_dtype, [&](auto t) { convert_all<decltype(f), decltype(t)>(from, to, n); });
  });
}

}  // namespace conclave::checkpoint
