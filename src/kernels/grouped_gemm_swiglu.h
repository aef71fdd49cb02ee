// The experts' first product on Hopper: a grouped GEMM that gathers its rows while loading them and
// applies the gated activation times the routing weight before storing.
//   gate_up[r] = x[index[r]] · w[e]ᵀ (+ bias[e]),  act[r] = activation(gate_up[r]) · weights[r],  r
//   a row of expert e
// act is computed from the gate_up that is stored (bf16), which is what a backward from it
// differentiates. Cost: 4 · rows · hidden · ffn operations; reads x's rows once for each 128
// columns of act, w once if L2 holds an expert's band, writes rows · 3 · ffn · 2 bytes. No host
// sync: offsets are read on the device.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

enum class GatedForm {
  halves,      // w, gate_up: gate rows (columns) first, then up; silu(gate) · up; no bias
  interleaved  // gate = 2 j, up = 2 j + 1; clamped at 7, gate · sigmoid(1.702 · gate) · (up + 1);
               // bias or none
};

struct GroupedSwiglu {
  const void* x;         // [tokens, hidden] bf16
  const int32_t* index;  // [rows] row of x of each row, or null: row r of x
  const int32_t*
      offsets;  // [experts + 1], on the device: expert e has rows offsets[e] … offsets[e + 1)
  const float* weights;  // [rows], or null: 1
  const void* w;         // [experts, 2 · ffn, hidden] bf16
  const void* bias;      // [experts, 2 · ffn] bf16, or null
  void* gate_up;         // [rows, 2 · ffn] bf16
  void* act;             // [rows, ffn] bf16; in both, rows from offsets[experts] on are not written
  int64_t rows;          // that the outputs have room for, ≥ 1
  int64_t hidden, ffn;
  int experts;
};

// Whether the kernel does this form on `device` (-1: the current one): Hopper, hidden a multiple of
// 64 and at least 640, ffn a multiple of 64, at most 448 experts; x, w, gate_up, act aligned to 16
// bytes, bias to 4.
bool grouped_swiglu_supported(const GroupedSwiglu& p);
// Launches on `stream`, on `sms` multiprocessors (0: all). Throws RunError if CUDA refuses.
void grouped_swiglu(const GroupedSwiglu& p, GatedForm form, cudaStream_t stream, int sms = 0);

}  // namespace conclave::kernels
