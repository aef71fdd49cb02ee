// Quantized tensors with known bytes, and what they stand for by the formats' specifications,
// computed the slow way: each value from its fields, exactly in fp64, rounded once to fp32.
#pragma once
#include <ATen/ops/empty.h>

#include <bit>
#include <cmath>
#include <limits>

#include "checkpoint/testing.h"

namespace conclave::checkpoint {

// OCP 8-bit floating point, e4m3: no infinity, S.1111.111 is NaN.
inline double e4m3_reference(int code) {
  const int exponent = (code >> 3) % 16, mantissa = code % 8;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  const double size = exponent == 0 ? mantissa / 8.0 * std::pow(2.0, -6)
                                    : (1 + mantissa / 8.0) * std::pow(2.0, exponent - 7);
  return code >= 128 ? -size : size;
}

// OCP Microscaling Formats 1.0: e2m1 elements, e8m0 scales with 0xff for NaN.
inline double mxfp4_reference(int code, int scale) {
  const int exponent = (code >> 1) % 4, mantissa = code % 2;
  const double size =
      exponent == 0 ? mantissa / 2.0 : (1 + mantissa / 2.0) * std::pow(2.0, exponent - 1);
  const double factor =
      scale == 255 ? std::numeric_limits<double>::quiet_NaN() : std::pow(2.0, scale - 127);
  return (code >= 8 ? -size : size) * factor;
}

// To the nearest bf16, ties to even; NaN stays NaN.
inline uint16_t bf16_reference(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The same bits, or both NaN.
inline bool same_value(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

// Same type, shape and bytes, except that any NaN equals any other.
inline void expect_same_values(const at::Tensor& a, const at::Tensor& b) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_same(a.masked_fill(a.isnan(), nan), b.masked_fill(b.isnan(), nan));
}

// Scales with all signs and sizes: factor 1 + i / 17 times 2^(i % 40 − 20), some negative.
inline at::Tensor scale_grid(int64_t rows, int64_t cols) {
  at::Tensor scales = at::empty({rows, cols}, at::kFloat);
  for (int64_t i = 0; i < rows * cols; ++i)
    scales.data_ptr<float>()[i] =
        std::ldexp(1 + static_cast<float>(i % 17) / 17, static_cast<int>(i % 40) - 20) *
        (i % 5 ? 1.0F : -1.0F);
  return scales;
}

// [rows, cols] fp32 from e4m3 codes [rows, cols] and scales, one a block of 128 × 128.
inline at::Tensor fp8_reference(const at::Tensor& codes, const at::Tensor& scales) {
  const int64_t rows = codes.size(0), cols = codes.size(1);
  at::Tensor out = at::empty({rows, cols}, at::kFloat);
  const auto* code = static_cast<const uint8_t*>(codes.const_data_ptr());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      out.data_ptr<float>()[r * cols + c] = static_cast<float>(
          e4m3_reference(code[r * cols + c]) *
          static_cast<double>(scales.const_data_ptr<float>()[r / 128 * scales.size(1) + c / 128]));
  return out;
}

// fp32 of `shape` from blocks [..., cols / 32, 16] and scales [..., cols / 32].
inline at::Tensor mxfp4_reference(const at::Tensor& blocks, const at::Tensor& scales,
                                  const std::vector<int64_t>& shape) {
  at::Tensor out = at::empty(shape, at::kFloat);
  const auto* byte = static_cast<const uint8_t*>(blocks.const_data_ptr());
  const auto* scale = static_cast<const uint8_t*>(scales.const_data_ptr());
  for (int64_t i = 0; i < out.numel(); ++i)
    out.data_ptr<float>()[i] = static_cast<float>(
        mxfp4_reference(i % 2 ? byte[i / 2] / 16 : byte[i / 2] % 16, scale[i / 32]));
  return out;
}

}  // namespace conclave::checkpoint
