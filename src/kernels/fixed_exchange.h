// Layouts and rows of ops/fixed_exchange.h on the device. Two counting sorts of kernels/
// expert_layout do the ordering: pairs by the rank that they go to, of which a token's first for a
// rank counts, and arrived slots by their expert; here is what leads to them and what follows. In
// both the last bin holds what counts for nothing. No host sync.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

struct SentRows {
  const int64_t* ids;  // [tokens, top_k]
  int64_t tokens, capacity;
  int top_k, local, ranks;  // top_k ≤ kMostSlots
  // The sort's: [ranks + 2] and [tokens · top_k], of bins 0 … ranks.
  const int32_t *offsets, *sorted;
  int32_t* pairs;    // [ranks]: what sent_bins counted
  int32_t* token;    // out [ranks · capacity], −1 before
  int32_t* rows;     // out [tokens, min(top_k, ranks)]
  int32_t* slot;     // out [tokens, top_k]
  int32_t* message;  // out [ranks · (1 + capacity), top_k], −1 before
  int64_t* needed;   // in and out [1]
};
constexpr int kMostSlots = 64;
// bins [tokens · top_k]: the rank of a token's first pair for it, `ranks` of others. Adds each
// rank's pairs to p.pairs. Stops at an id out of range.
void sent_bins(int64_t* bins, const SentRows& p, cudaStream_t stream);
void sent_rows(const SentRows& p, cudaStream_t stream);

struct ArrivedRows {
  const int32_t* message;  // [ranks · (1 + capacity), top_k]
  int64_t capacity, room;
  int top_k, local, ranks;
  // The sort's: [local + 2], [slots] and [slots] for slots = ranks · capacity · top_k.
  const int32_t *begins, *pair, *sorted;
  int32_t* offsets;     // out [local + 1]
  int32_t* row;         // out [room]
  int32_t* slot;        // out [room]
  int32_t* expert_row;  // out [slots]
  int64_t* needed;      // in and out [1]
};
// bins [slots]: a slot's expert, `local` of an empty one.
void arrived_bins(int64_t* bins, const ArrivedRows& p, cudaStream_t stream);
void arrived_rows(const ArrivedRows& p, cudaStream_t stream);

// out[i] = x[index[i]] for i < n, zeros where that is −1; rows of `bytes`. Bytes: out once, x's
// rows once.
void take_or_zero(void* out, const void* x, const int32_t* index, int64_t n, int64_t bytes,
                  cudaStream_t stream);
// out[i] = Σ_j x[index[i, j]] for i < n and j < k, none where that is −1, in order in acc_t<T>. T
// is float or bf16.
template <class T>
void sum_of_rows(T* out, const T* x, const int32_t* index, int64_t n, int k, int64_t width,
                 cudaStream_t stream);
// out[i] = x[index[i]] for i < n, 0 where that is −1; float or double.
template <class T>
void element_or_zero(T* out, const T* x, const int32_t* index, int64_t n, cudaStream_t stream);

}  // namespace conclave::kernels
