// Rows as they come from other ranks, one for each rank that a token is sent to, before they are
// spread over experts; on one device, which stands for all (comm/dispatch_proxy.h).
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/dispatch.h"

namespace conclave::ops {

// int64 on the CPU. On CUDA int32, and no call waits for the device: tensors over the buffer's rows
// have room for tokens · min(top_k, ranks) of them, of which token_begin's last says how many are
// there; the rest is neither read nor written.
struct ReceiveBuffer {
  at::Tensor token;        // [rows]: whose each is, ascending
  at::Tensor row;          // [received]: from which row of the buffer each expert's row is taken
  at::Tensor pairs;        // [received]: experts' rows in the order of the buffer's
  at::Tensor pair_begin;   // [rows + 1]: row i of the buffer feeds pairs pair_begin[i] …
  at::Tensor token_begin;  // [tokens + 1]: token t has rows token_begin[t] …
};

// ids [tokens, top_k] int64; pair (token, slot) goes to rank ids / local, and is carried by the
// experts' row row_of_pair [tokens, top_k] (ExpertLayout::row). A row for each distinct (token,
// rank), tokens ascending, ranks ascending within one. At most 64 slots on CUDA.
ReceiveBuffer receive_buffer(const at::Tensor& ids, const at::Tensor& row_of_pair, int64_t local,
                             int64_t ranks);

// x [tokens, hidden] → the buffer's rows [rows, hidden], and from these the experts' rows
// [received, hidden].
at::Tensor fill_buffer(const at::Tensor& x, const ReceiveBuffer& b);
at::Tensor spread_buffer(const at::Tensor& buffer, const ReceiveBuffer& b);
// Experts' rows [received, hidden] → one partial sum a row of the buffer, in the order of slots,
// and from these the tokens' sums [tokens, hidden], ranks in order; each in fp32 or wider, rounded
// once.
at::Tensor partial_sums(const at::Tensor& rows, const ReceiveBuffer& b);
at::Tensor token_sums(const at::Tensor& partial, const ReceiveBuffer& b);

}  // namespace conclave::ops
