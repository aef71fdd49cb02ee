#include "checkpoint/convert.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

template <class T>
constexpr at::ScalarType kType = c10::CppTypeToScalarType<T>::value;

template <class To, class From>
To one(From value) {
  To result;
  convert(&value, kType<From>, &result, kType<To>, 1);
  return result;
}

// Rounds to `digits` significant binary digits, not below 2^lowest, to nearest even, by scaling and
// nearbyint: slow and plain.
double rounded(double value, int digits, int lowest, double largest) {
  if (value == 0 || !std::isfinite(value)) return value;
  const int unit = std::max(std::ilogb(value) - digits + 1, lowest);
  const double result = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
  return std::fabs(result) > largest ? std::copysign(std::numeric_limits<double>::infinity(), value)
                                     : result;
}
double to_half(double value) { return rounded(value, 11, -24, 65504); }
double to_bfloat(double value) { return rounded(value, 8, -133, std::ldexp(255.0, 120)); }
double to_float(double value) {
  return rounded(value, 24, -149, std::numeric_limits<float>::max());
}

TEST(Convert, SixteenBitsWidenExactlyAndComeBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = std::bit_cast<c10::Half>(static_cast<uint16_t>(bits));
    const auto bfloat = std::bit_cast<c10::BFloat16>(static_cast<uint16_t>(bits));
    if (!std::isnan(static_cast<float>(half))) {
      EXPECT_EQ(one<float>(half), static_cast<float>(half));
      EXPECT_EQ(one<c10::Half>(one<float>(half)).x, half.x);
      EXPECT_EQ(one<c10::Half>(one<double>(half)).x, half.x);
      EXPECT_EQ(static_cast<double>(one<c10::BFloat16>(half)), to_bfloat(one<double>(half)));
    } else {
      EXPECT_TRUE(std::isnan(one<double>(half)) &&
                  std::isnan(static_cast<float>(one<c10::BFloat16>(half))));
    }
    if (!std::isnan(static_cast<float>(bfloat))) {
      EXPECT_EQ(one<c10::BFloat16>(one<float>(bfloat)).x, bfloat.x);
      EXPECT_EQ(one<c10::BFloat16>(one<double>(bfloat)).x, bfloat.x);
      EXPECT_EQ(static_cast<double>(one<c10::Half>(bfloat)), to_half(one<double>(bfloat)));
    } else {
      EXPECT_TRUE(std::isnan(one<double>(bfloat)) &&
                  std::isnan(static_cast<float>(one<c10::Half>(bfloat))));
    }
  }
}

TEST(Convert, NarrowsWithOneRounding) {
  std::mt19937_64 random(1);
  std::vector<double> values = {0.0,
                                -0.0,
                                65504,
                                65519.999,
                                65520,
                                1e-8,
                                5e-324,
                                1e300,
                                -1e300,
                                0x1p-149,
                                0x1p-150,
                                0x1.8p-150,
                                std::numeric_limits<double>::infinity(),
                                -std::numeric_limits<double>::infinity()};
  for (int i = 0; i < 40'000; ++i) {
    const double value = std::ldexp(static_cast<double>(static_cast<int64_t>(random())),
                                    static_cast<int>(random() % 300) - 213);
    values.push_back(value);
    for (double tie :
         {to_half(value), to_bfloat(value)})  // just beside a tie: where two roundings go wrong
      if (std::isfinite(tie) && tie != 0) {
        const double middle = tie * (1 + 0x1p-9);
        values.insert(values.end(), {middle, std::nextafter(middle, 0),
                                     std::nextafter(middle, 1e308), tie * (1 + 0x1p-12 + 0x1p-40)});
      }
  }
  for (double value : values) {
    EXPECT_EQ(static_cast<double>(one<c10::Half>(value)), to_half(value)) << value;
    EXPECT_EQ(static_cast<double>(one<c10::BFloat16>(value)), to_bfloat(value)) << value;
    EXPECT_EQ(static_cast<double>(one<float>(value)), to_float(value)) << value;
    const auto single = static_cast<float>(value);
    EXPECT_EQ(static_cast<double>(one<c10::Half>(single)), to_half(single)) << value;
    EXPECT_EQ(static_cast<double>(one<c10::BFloat16>(single)), to_bfloat(single)) << value;
    EXPECT_EQ(std::signbit(static_cast<float>(one<c10::BFloat16>(value))), std::signbit(value));
  }
  EXPECT_TRUE(std::isnan(static_cast<float>(one<c10::BFloat16>(std::nan("")))));
  EXPECT_TRUE(std::isnan(static_cast<float>(one<c10::Half>(std::nan("")))));
}

TEST(Convert, ReadsMemoryThatIsNotAligned) {
  std::vector<char> raw(8 * 5 + 1);
  const double values[5] = {1, -2.5, 1e10, 0, 3};
  std::memcpy(raw.data() + 1, values, sizeof values);
  float out[5];
  convert(raw.data() + 1, at::kDouble, out, at::kFloat, 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(out[i], static_cast<float>(values[i]));
}

TEST(Convert, KnowsItsPairs) {
  EXPECT_TRUE(can_convert(at::kLong, at::kLong));
  EXPECT_TRUE(can_convert(at::kDouble, at::kHalf));
  EXPECT_FALSE(can_convert(at::kLong, at::kInt));
  EXPECT_FALSE(can_convert(at::kFloat8_e4m3fn, at::kFloat));
  int64_t a = 1;
  float b;
  EXPECT_THROW(convert(&a, at::kLong, &b, at::kFloat, 1), c10::Error);
}

}  // namespace
}  // namespace conclave::checkpoint
