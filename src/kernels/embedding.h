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
// A token and its id.
struct Occurrence {
  int32_t id, token;
};
// order [tokens]: all tokens, those with equal ids side by side and ascending (what order the ids
// have is the kernel's affair). ids as above, vocab at most 2³¹ − 1, tokens at most 2³⁰; `spare`
// [tokens] is scratch.
void order_by_id(Occurrence* order, Occurrence* spare, const int64_t* ids, const EmbeddingSizes& s,
                 cudaStream_t stream);
// dweight[id] += Σ dy of its tokens, in ascending order of the tokens, with `order` as order_by_id
// left it. Rows of the id `padding` are left out (a negative one: none are). D is acc_t<T> or T;
// tokens · ⌈hidden / 64⌉ at most 2³¹ − 1. Bytes: dy once, the touched rows of dweight twice.
template <class T, class D>
void embedding_backward(D* dweight, const Occurrence* order, const T* dy, const EmbeddingSizes& s,
                        int64_t padding, cudaStream_t stream);

}  // namespace conclave::kernels
