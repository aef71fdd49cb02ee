// Grouped GEMMs on Hopper for the experts' forward and input gradients. Rows offsets[e] … offsets[e
// + 1) belong to expert e; offsets are read on the device, any expert may be empty, and rows from
// offsets[experts] on are not written. No host sync.
//
// product:     out[r] = x[index[r]] · w[e]ᵀ (+ weights[r] · bias[e])
// transposed:  out[r] = x[index[r]] · w[e], the gradient of a product's input
// halves, interleaved: the experts' first product with the gated activation
//   out[r] = x[index[r]] · w[e]ᵀ (+ bias[e]),  act[r] = activation(out[r]) · weights[r]
// act is computed from the out that is stored (bf16), which is what a backward from it
// differentiates. Cost: 2 · rows · depth · columns operations; reads x's rows once for each 256
// columns, w once while L2 holds an expert's band.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

enum class GroupedForm {
  product,
  transposed,  // w is [experts, depth, columns]; no bias
  halves,      // of the columns: gate first, then up; silu(gate) · up; no bias
  interleaved  // gate = 2 j, up = 2 j + 1; clamped at 7, gate · sigmoid(1.702 · gate) · (up + 1)
};

struct GroupedGemm {
  const void* x;           // [tokens, depth] bf16
  const int32_t* index;    // [rows] row of x of each row, or null: row r of x
  const int32_t* offsets;  // [experts + 1], on the device
  const float* weights;    // [rows], or null: 1
  const void* w;           // [experts, columns, depth] bf16 (transposed: see there)
  const void* bias;        // [experts, columns] bf16, or null
  void* out;               // [rows, columns] bf16
  void* act;               // [rows, columns / 2] bf16; null for the products
  int64_t rows;            // that the outputs have room for, ≥ 1
  int64_t depth, columns;
  int experts;
};

// Whether the kernel does this on the current device: Hopper; depth a multiple of 64 and at least
// 256 (products), 640 (halves) or 896 (interleaved); columns a multiple of 64, of 128 with an
// activation; at most 400 experts; x, w, out, act aligned to 16 bytes, bias to 4 and none with
// halves or transposed.
bool grouped_gemm_supported(const GroupedGemm& p, GroupedForm form);
// Launches on `stream`, on `sms` multiprocessors (0: all). Throws RunError if CUDA refuses.
void grouped_gemm(const GroupedGemm& p, GroupedForm form, cudaStream_t stream, int sms = 0);

}  // namespace conclave::kernels
