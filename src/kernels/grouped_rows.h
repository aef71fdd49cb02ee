// What surrounds a grouped GEMM, for rows offsets[e] … offsets[e + 1) of expert e with offsets on
// the device: biases and their gradients, and the sum of a gradient into the one kept. Rows from
// offsets[experts] on are neither read nor written.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

enum class RowType { bf16, fp32 };

struct GroupedRows {
  const int32_t* offsets;  // [experts + 1], on the device
  int experts;
  int64_t rows;  // there is room for
  int64_t columns;
  RowType type;  // of y, dy and bias
};

// y [rows, columns] += bias[e] [columns], times weights [rows] where given. Reads and writes y
// once.
void grouped_bias(const GroupedRows& p, void* y, const void* bias, const float* weights,
                  cudaStream_t stream);
// dbias [experts, columns] of `sum_type` += Σ over an expert's rows of dy, times weights where
// given, in fp32 and in fixed order. Reads dy once.
void grouped_bias_backward(const GroupedRows& p, void* dbias, RowType sum_type, const void* dy,
                           const float* weights, cudaStream_t stream);
// dweights [rows] = ⟨dy[r], bias[e]⟩; 0 from offsets[experts] on. Reads dy once.
void grouped_bias_backward_weights(const GroupedRows& p, float* dweights, const void* dy,
                                   const void* bias, cudaStream_t stream);

// to[e][i][j] += from[e][i][j] for the experts that have rows: `from` [experts, m, n] bf16,
// contiguous; `to` of to_type, its experts to_stride elements apart, its rows n; m · n and
// to_stride multiples of 8, both aligned to 16 bytes. Bytes: 10 an element into fp32.
void add_expert_gradients(void* to, RowType to_type, int64_t to_stride, const void* from,
                          const int32_t* offsets, int experts, int64_t m, int64_t n,
                          cudaStream_t stream);

}  // namespace conclave::kernels
