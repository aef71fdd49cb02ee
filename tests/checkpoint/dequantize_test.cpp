// Every code times every scale, and matrices with ragged edges, against the formats' specifications
// bit for bit. Against transformers: StoredParity in stored_test.cpp.
#include "checkpoint/dequantize.h"

#include "checkpoint/quantized.h"

namespace conclave::checkpoint {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Every exponent of fp32 with mantissas that make products exact, tied and inexact; zeros,
// infinities, NaN.
std::vector<float> every_scale() {
  std::vector<float> scales = {0.0F, -0.0F, kInf, -kInf, std::numeric_limits<float>::quiet_NaN()};
  for (uint32_t exponent = 0; exponent < 255; ++exponent)
    for (uint32_t mantissa : {0U, 1U, 0x2aaaabU, 0x400000U, 0x7fffffU})
      for (uint32_t sign : {0U, 1U})
        scales.push_back(std::bit_cast<float>(sign << 31 | exponent << 23 | mantissa));
  return scales;
}

TEST(Dequantize, EveryFp8CodeTimesEveryScale) {
  std::vector<uint8_t> codes(256);
  for (size_t i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
  std::vector<float> got(256);
  for (float scale : every_scale()) {
    const std::vector<float> scales = {scale, scale};
    fp8_values(codes.data(), scales.data(), 256, 0, 256, got.data());
    for (int i = 0; i < 256; ++i) {
      const auto want = static_cast<float>(e4m3_reference(i) * static_cast<double>(scale));
      ASSERT_TRUE(same_value(got[static_cast<size_t>(i)], want))
          << "code " << i << " scale " << scale << ": " << got[static_cast<size_t>(i)]
          << ", expected " << want;
    }
  }
}

TEST(Dequantize, EveryMxfp4CodeTimesEveryScale) {
  std::vector<float> got(32);
  for (int scale = 0; scale < 256; ++scale)
    for (int code = 0; code < 16; ++code) {
      const auto low = static_cast<uint8_t>(code | 0x30),
                 high = static_cast<uint8_t>(code << 4 | 5);
      for (bool in_high : {false, true}) {
        const std::vector<uint8_t> bytes(16, in_high ? high : low);
        const auto byte = static_cast<uint8_t>(scale);
        mxfp4_values(bytes.data(), &byte, 0, 32, got.data());
        for (size_t i = 0; i < 32; ++i) {
          const int here = i % 2 == (in_high ? 1 : 0) ? code : in_high ? 5 : 3;
          const auto want = static_cast<float>(mxfp4_reference(here, scale));
          ASSERT_TRUE(same_value(got[i], want)) << "code " << here << " scale " << scale;
        }
      }
    }
}

TEST(Dequantize, TheTopAndTheNanOfMxfp4) {
  const std::vector<uint8_t> bytes = {0x07, 0x21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf4};
  std::vector<float> got(32);
  uint8_t scale = 254;
  mxfp4_values(bytes.data(), &scale, 0, 32, got.data());
  EXPECT_EQ(got[0], kInf);  // 6 · 2^127
  EXPECT_EQ(got[1], 0.0F);
  EXPECT_EQ(got[2], std::ldexp(1.0F, 126));  // 0.5 · 2^127
  EXPECT_EQ(got[3], std::ldexp(1.0F, 127));
  EXPECT_EQ(got[31], -kInf);
  scale = 0;
  mxfp4_values(bytes.data(), &scale, 0, 32, got.data());
  EXPECT_EQ(got[2], std::ldexp(1.0F, -128));  // a denormal number of fp32
  scale = 255;
  mxfp4_values(bytes.data(), &scale, 0, 32, got.data());
  for (float value : got) EXPECT_TRUE(std::isnan(value));
}

TEST(Dequantize, AnyPartOfAMatrixWithRaggedEdges) {
  constexpr int64_t kRows = 261, kCols = 300;
  const at::Tensor codes = patterned({kRows, kCols}, at::kFloat8_e4m3fn, 3),
                   scales = scale_grid(3, 3);
  const at::Tensor want = fp8_reference(codes, scales);
  const auto* code = static_cast<const uint8_t*>(codes.const_data_ptr());
  for (auto [first, n] : {std::pair<int64_t, int64_t>{0, kRows * kCols},
                          {0, 0},
                          {299, 2},
                          {127, 2},
                          {128 * kCols - 1, 2},
                          {200 * kCols + 255, 1000},
                          {256 * kCols, 5 * kCols},
                          {kRows * kCols - 1, 1}}) {
    std::vector<float> got(static_cast<size_t>(n));
    fp8_values(code + first, scales.const_data_ptr<float>() + first / kCols / 128 * 3, kCols, first,
               n, got.data());
    for (int64_t i = 0; i < n; ++i)
      ASSERT_TRUE(same_value(got[static_cast<size_t>(i)], want.const_data_ptr<float>()[first + i]))
          << first << " + " << i;
  }
}

TEST(Dequantize, AnyPartOfMxfp4Blocks) {
  const at::Tensor blocks = patterned({7, 3, 16}, at::kByte, 5),
                   scales = patterned({7, 3}, at::kByte, 9);
  const at::Tensor want = mxfp4_reference(blocks, scales, {7, 96});
  const auto* byte = static_cast<const uint8_t*>(blocks.const_data_ptr());
  const auto* scale = static_cast<const uint8_t*>(scales.const_data_ptr());
  for (int64_t first = 0; first < 100; ++first)
    for (int64_t n : {0, 1, 2, 3, 31, 32, 33, 64, 101}) {
      std::vector<float> got(static_cast<size_t>(n));
      mxfp4_values(byte + first / 2, scale + first / 32, first, n, got.data());
      for (int64_t i = 0; i < n; ++i)
        ASSERT_TRUE(
            same_value(got[static_cast<size_t>(i)], want.const_data_ptr<float>()[first + i]))
            << first << " + " << i;
    }
}

}  // namespace
}  // namespace conclave::checkpoint
