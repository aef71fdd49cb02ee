// Quantized weights to the values they stand for. A value is what it is in fp32: scaled there with
// one rounding, then converted to whatever type is wanted (convert.h), as transformers does.
#pragma once
#include <cstdint>

namespace conclave::checkpoint {

// FP8 e4m3 in blocks of 128 × 128 (DeepSeek-V3): value = code · scale of its block; blocks at the
// right and lower edge may be smaller. e4m3 has no infinity; 0x7f and 0xff are NaN.
constexpr int64_t kFp8Block = 128;

// out[i] = element first + i of a row-major matrix with `cols` columns, i < n.
// codes [n]: from element `first` on. scales [rows of blocks, ⌈cols / 128⌉]: from the row of blocks
// of element `first` on. Runs on the calling thread.
void fp8_values(const uint8_t* codes, const float* scales, int64_t cols, int64_t first, int64_t n,
                float* out);

// MXFP4 (OCP Microscaling Formats 1.0): 32 elements e2m1 in 16 bytes, the low half of a byte first,
// and one scale e8m0, 2^(byte − 127). A scale 0xff is NaN and makes its whole block NaN, as the
// specification says; transformers 5.17 takes it for 2^128, so that 0 and 0.5 stay finite.
// What exceeds fp32 (2, 3, 4, 6 times 2^127; 4, 6 times 2^126) is infinite; the specification
// leaves that open, and transformers does the same.
constexpr int64_t kMxfp4Block = 32;

// out[i] = element first + i of the tensor's blocks laid end to end, i < n.
// bytes: from that of element `first` on. scales: from that of the block of element `first` on.
void mxfp4_values(const uint8_t* bytes, const uint8_t* scales, int64_t first, int64_t n,
                  float* out);

}  // namespace conclave::checkpoint
