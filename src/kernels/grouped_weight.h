// The weight gradients of grouped products on Hopper, added to what is there:
//   dw[e] += Σ over the rows r of expert e of dy[r] ⊗ x[r]
// Rows offsets[e] … offsets[e + 1) belong to expert e; offsets are read on the device. The gradient
// of an expert without rows is neither read nor written, rows from offsets[experts] on are not
// read. No host sync; the same bits every time. Summed in fp32; into fp32 without a rounding on the
// way, into bf16 with one of the sum and one of what it is added to. Cost: 2 · rows · out · in
// operations; dy is read once for each 256 of `in`, x for each 128 of `out` (from L2 mostly), dw
// read and written once, in L2.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

struct GroupedWeight {
  const void* dy;          // [rows, out] bf16
  const void* x;           // [rows, in] bf16
  const int32_t* offsets;  // [experts + 1], on the device
  void* dw;                // [experts, out, in], bf16 or fp32
  bool fp32;               // dw's type
  int64_t rows;            // of dy and x, ≥ 1
  int64_t out, in;
  int experts;
};

// Whether the kernel does this on the current device: Hopper; `out` and `in` multiples of 8, at
// most 400 experts, dy, x and dw aligned to 16 bytes.
bool grouped_weight_supported(const GroupedWeight& p);
// Launches on `stream`, on `sms` multiprocessors (0: all). Throws RunError if CUDA refuses.
void grouped_weight(const GroupedWeight& p, cudaStream_t stream, int sms = 0);

}  // namespace conclave::kernels
