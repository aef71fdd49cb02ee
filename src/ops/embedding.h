// Embedding lookup. On CUDA an id outside of the vocabulary stops the device instead of throwing.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// ids [tokens] int64 in 0 … vocab−1 (throws naming the first that is not) · weight [vocab, hidden]
// → [tokens, hidden].
at::Tensor embedding(const at::Tensor& ids, const at::Tensor& weight);
// dweight [vocab, hidden] (fp32 or wider; on CUDA also dy's type) [ids[t]] += dy[t], tokens in
// ascending order for each id; not for the id `padding` (torch.nn.Embedding's padding_idx).
void embedding_backward_(at::Tensor dweight, const at::Tensor& ids, const at::Tensor& dy,
                         int64_t padding = -1);

}  // namespace conclave::ops
