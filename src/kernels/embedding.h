// Embedding lookup and its backward without atomics. T is float, double or bf16.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

struct EmbeddingSizes {
  int64_t tokens, vocab, hidden;
};
// out[t] = weight[ids[t]]: ids [tokens] in 0 … vocab − 1 (the device stops otherwise), weight
// [vocab, hidden]. Bytes: out twice.
template <class T>
void embedding(T* out, const int64_t* ids, const T* weight, const EmbeddingSizes& s,
               cudaStream_t stream);
// dweight[id] += Σ dy of its tokens, in ascending order of the tokens. `sorted` [tokens] are the
// ids in ascending order and `token` [tokens] the tokens they came from, equal ids in token order.
// Rows of the id `padding` are left out (a negative one: none are). D is acc_t<T> or T. Bytes: dy
// once, the touched rows of dweight twice.
template <class T, class D>
void embedding_backward(D* dweight, const int32_t* sorted, const int64_t* token, const T* dy,
                        const EmbeddingSizes& s, int64_t padding, cudaStream_t stream);

}  // namespace conclave::kernels
