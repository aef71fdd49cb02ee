// Rows to their experts and back, on one device. The layout is made once from the ids; backward and
// recompute use the saved one. On CUDA the layout's tensors are int32, and no call waits for the
// device.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

struct ExpertLayout {
  at::Tensor offsets;  // [experts + 1] int64: expert e has rows offsets[e] … offsets[e+1) of the
                       // routed = tokens · top_k rows
  at::Tensor pair;  // [routed] int64: row r carries pair[r] = token · top_k + slot; tokens ascend
                    // within an expert
  at::Tensor row;   // [tokens, top_k] int64: the row that carries (token, slot); inverse of pair
};
// ids [tokens, top_k] int64 in 0 … experts−1 (throws otherwise); a token names an expert at most
// once.
ExpertLayout expert_layout(const at::Tensor& ids, int64_t experts);

// [routed, hidden]: out[r] = x[pair[r] / top_k]. x [tokens, hidden].
at::Tensor gather_rows(const at::Tensor& x, const ExpertLayout& layout);
// [tokens, hidden]: out[t] = Σ_j rows[row[t, j]], summed in slot order in fp32 or wider. The
// transpose of gather_rows.
at::Tensor gather_sum(const at::Tensor& rows, const ExpertLayout& layout);
// [routed]: out[r] = weights.flat[pair[r]], and its transpose [tokens, top_k]. fp32 or wider.
at::Tensor gather_weights(const at::Tensor& weights, const ExpertLayout& layout);
at::Tensor gather_weights_backward(const at::Tensor& dweights, const ExpertLayout& layout);

}  // namespace conclave::ops
