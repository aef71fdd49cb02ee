#include "checkpoint/dequantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace conclave::checkpoint {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Sign, 4 bits of exponent (bias 7), 3 of mantissa.
float e4m3_value(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float size = exponent == 15 && mantissa == 7 ? kNaN
                     : exponent == 0                 ? std::ldexp(static_cast<float>(mantissa), -9)
                                     : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return code & 128 ? -size : size;
}

// Sign, 2 bits of exponent (bias 1), 1 of mantissa.
constexpr std::array<float, 16> kE2m1 = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                         -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};

float e8m0_value(int byte) { return byte == 255 ? kNaN : std::ldexp(1.0F, byte - 127); }

template <size_t N, class F>
std::array<float, N> table_of(const F& f) {
  std::array<float, N> table;
  for (size_t i = 0; i < N; ++i) table[i] = f(static_cast<int>(i));
  return table;
}

}  // namespace

void fp8_values(const uint8_t* codes, const float* scales, int64_t cols, int64_t first, int64_t n,
                float* out) {
  static const std::array<float, 256> kValues = table_of<256>(e4m3_value);
  const int64_t across = (cols + kFp8Block - 1) / kFp8Block, top = first / cols / kFp8Block;
  for (int64_t i = 0; i < n;) {
    const int64_t row = (first + i) / cols, col = (first + i) % cols;
    const float scale = scales[(row / kFp8Block - top) * across + col / kFp8Block];
    const int64_t run_end = std::min(cols, (col / kFp8Block + 1) * kFp8Block);
    const int64_t end = std::min(n, i + run_end - col);
    for (; i < end; ++i) out[i] = kValues[codes[i]] * scale;
  }
}

void mxfp4_values(const uint8_t* bytes, const uint8_t* scales, int64_t first, int64_t n,
                  float* out) {
  static const std::array<float, 256> kScales = table_of<256>(e8m0_value);
  bytes -= first / 2;
  scales -= first / kMxfp4Block;
  out -= first;
  const int64_t last = first + n;
  for (int64_t i = first; i < last;) {
    const float scale = kScales[scales[i / kMxfp4Block]];
    const int64_t end = std::min(last, (i / kMxfp4Block + 1) * kMxfp4Block);
    std::array<float, 16> values;
    for (size_t code = 0; code < values.size(); ++code) values[code] = kE2m1[code] * scale;
    if (i % 2) out[i] = values[bytes[i / 2] >> 4], ++i;
    for (; i + 1 < end; i += 2) {
      const uint8_t pair = bytes[i / 2];
      out[i] = values[pair & 15];
      out[i + 1] = values[pair >> 4];
    }
    if (i < end) out[i] = values[bytes[i / 2] & 15], ++i;
  }
}

}  // namespace conclave::checkpoint
