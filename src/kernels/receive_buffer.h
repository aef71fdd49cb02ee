// The receive buffer of one rank's share (ops/receive_buffer.h) on the device: its layout in three
// launches, and rows into it, out of it and back, which stop at the number of rows that the device
// counted. No host sync.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

struct ReceiveLayout {
  const int64_t* ids;  // [tokens, top_k]; rank of a pair: id / local
  const int32_t* row;  // [tokens, top_k]: the expert's row that carries a pair
  int64_t tokens;
  int top_k, local;     // tokens · top_k < 2^31
  int64_t capacity;     // rows that the buffer has room for: tokens · min(top_k, ranks)
  int32_t* token;       // out [capacity]: whose each row is, 0 past the last
  int32_t* buffer_row;  // out [tokens · top_k]: from which row of the buffer an expert's row comes
  int32_t* pairs;       // out [tokens · top_k]: experts' rows in the buffer's order
  int32_t* pair_begin;  // out [capacity + 1]
  int32_t* token_begin;  // out [tokens + 1]; the last is the number of rows
  int32_t* sums;         // scratch [receive_layout_blocks(tokens) + 1]
};
int64_t receive_layout_blocks(int64_t tokens);
void receive_layout(const ReceiveLayout& p, cudaStream_t stream);

// out[i] = x[index[i]] for i < n, and where `count` is given for i < *count; rows of `bytes`.
void take_rows(void* out, const void* x, const int32_t* index, int64_t n, const int32_t* count,
               int64_t bytes, cudaStream_t stream);

// out[s] = Σ over begin[s] ≤ i < begin[s + 1] of rows[index[i]] (rows[i] without an index) for
// s < segments, and where `count` is given for s < *count; in acc_t<T>, in order, rounded once. T
// is float or bf16.
template <class T>
void sum_segments(T* out, const T* rows, const int32_t* index, const int32_t* begin,
                  int64_t segments, const int32_t* count, int64_t hidden, cudaStream_t stream);

}  // namespace conclave::kernels
