// Rows to their experts and back on one device, by the layout that kernels/expert_layout makes: row
// r carries pair[r] = token · top_k + slot, and row[token, slot] is the row that carries it. T is
// float, double or bf16.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

struct GatherSizes {
  int64_t tokens, hidden;
  int top_k;
};
// out[row[t, j]] = x[t]: x [tokens, hidden] → [tokens · top_k, hidden]. Bytes: x once, out once.
template <class T>
void gather_rows(T* out, const T* x, const int32_t* row, const GatherSizes& s, cudaStream_t stream);
// out[t] = Σ_j rows[row[t, j]], summed in slot order in acc_t<T>. Bytes: rows once, out once.
template <class T>
void gather_sum(T* out, const T* rows, const int32_t* row, const GatherSizes& s,
                cudaStream_t stream);
// out[i] = from[index[i]] for i < n; float or double. Bytes: index and out once, from once or more.
template <class T>
void gather_elements(T* out, const T* from, const int32_t* index, int64_t n, cudaStream_t stream);

}  // namespace conclave::kernels
