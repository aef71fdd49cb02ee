// Gated activations times an optional weight a row, and their backward. Sources: arXiv 2002.05202;
// transformers, models/gpt_oss (the clamped one). T is float, double or bf16; computed in acc_t<T>.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

struct SwigluSizes {
  int64_t rows, ffn;
  // false: gate in the first half of a row, up in the second; silu(gate) · up.
  // true: gate = column 2j, up = 2j + 1; gate ≤ 7, −7 ≤ up ≤ 7 first, then
  // gate · sigmoid(1.702 · gate) · (up + 1).
  bool clamped;
};
// y [rows, ffn] · gate_up [rows, 2 · ffn] · weights [rows], or null (1). Bytes: each once.
template <class T>
void swiglu(T* y, const T* gate_up, const acc_t<T>* weights, const SwigluSizes& s,
            cudaStream_t stream);
// dgate_up [rows, 2 · ffn] · dweights [rows], or null with weights · dy [rows, ffn]. Bytes: dy,
// gate_up and dgate_up once.
template <class T>
void swiglu_backward(T* dgate_up, acc_t<T>* dweights, const T* dy, const T* gate_up,
                     const acc_t<T>* weights, const SwigluSizes& s, cudaStream_t stream);

}  // namespace conclave::kernels
