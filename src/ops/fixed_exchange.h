// Rows that move between expert ranks in fixed numbers, known before the routing is: `capacity`
// rows from each rank to each, of which the first are there, and the experts' rows of a rank. What
// is there follows from the ids alone and is found where they are: on CUDA no call waits for the
// device. Indices are int32; −1 means no row: it reads as zeros and adds nothing.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// This rank's tokens on their way: a row for each distinct (token, rank), tokens ascending for a
// rank.
struct SentLayout {
  at::Tensor token;    // [ranks · capacity]: whose each row is
  at::Tensor rows;     // [tokens, min(top_k, ranks)]: a token's rows, ranks ascending, then −1
  at::Tensor slot;     // [tokens, top_k]: place of each pair in [ranks · capacity, top_k]
  at::Tensor message;  // [ranks · (1 + capacity), top_k]: for each rank first a row with the number
                       // of its pairs, then of each row the experts in its slots as that rank
                       // counts them, −1 in the slots of other ranks
};
// ids [tokens, top_k] int64 in 0 … experts−1 (throws otherwise; on CUDA the kernel stops), none
// twice for a token; rank r has experts r · local … (r + 1) · local − 1. Rows beyond `capacity` are
// left out, and their pairs with them. needed [2] int64 there: the first becomes at least the rows
// that the fullest rank should get. At most 64 slots on CUDA.
SentLayout sent_layout(const at::Tensor& ids, int64_t experts, int64_t ranks, int64_t capacity,
                       const at::Tensor& needed);

// The rows of all ranks where their experts are, in the order of arrival for each.
struct ArrivedLayout {
  at::Tensor offsets;  // [local + 1], int64 on the CPU: expert e has rows offsets[e] … offsets[e+1)
  at::Tensor row;      // [received]: which of the rows that arrived each expert's row is
  at::Tensor slot;     // [received]: likewise its place in [ranks · capacity, top_k]
  at::Tensor expert_row;  // [ranks · capacity, top_k]: the experts' row of each slot
};
// message [ranks · (1 + capacity), top_k] int32 as the ranks sent it. `received` is `room` on CUDA,
// −1 behind what is there; on the CPU as many as are there, at most `room`: others are left out.
// The second of `needed` becomes at least the number of pairs that the ranks have for this one.
ArrivedLayout arrived_layout(const at::Tensor& message, int64_t local, int64_t ranks, int64_t room,
                             const at::Tensor& needed);

// x [m, width], index [n] → [n, width].
at::Tensor take_rows(const at::Tensor& x, const at::Tensor& index);
// x [m, width], index [n, k] → [n, width]: Σ_j x[index[i, j]], in that order in fp32 or wider and
// rounded once. bf16, fp32 or fp64 on the CPU; not fp64 on CUDA.
at::Tensor sum_rows(const at::Tensor& x, const at::Tensor& index);
// x of any shape, fp32 or wider, index of any → x.flat[index].
at::Tensor take_elements(const at::Tensor& x, const at::Tensor& index);

}  // namespace conclave::ops
