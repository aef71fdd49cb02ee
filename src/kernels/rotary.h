// Rotary position embedding, alone and behind a norm of each head. Sources: arXiv 2104.09864,
// transformers. T is float, double or bf16; the table is acc_t<T>.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

template <class T>
struct RotaryArgs {
  T* y;                      // out [tokens, heads, dim]
  const T* x;                // [tokens, heads, dim]
  const int64_t* positions;  // [tokens], each < known (the device stops otherwise)
  const acc_t<T>*cos, *sin;  // [known, (dim − passed) / 2]
  int64_t tokens, known;
  int heads, dim, passed;  // the first `passed` elements of a head stay as they are
  bool interleaved;        // pairs are 2i and 2i + 1, not i and i + half
  bool back;               // the transposed rotation
};
// Bytes: x and y once; a token's row of the table is read from the cache by all of its heads.
template <class T>
void rotary(const RotaryArgs<T>& a, cudaStream_t stream);

// RMSNorm of each head with weight [dim], rounded to T where the two kernels would round, then the
// half-split rotation: of a layer's queries and keys in one launch, or of one of them.
template <class T>
struct HeadNorm {   // what queries and keys have apart
  T* y;             // out [tokens, heads, dim]; dx in the backward
  const T *x, *dy;  // [tokens, heads, dim]; dy in the backward
  acc_t<T>* rstd;   // out [tokens · heads]; read where `from_rstd` and by the backward
  const T* weight;  // [dim]
  int heads;
};
template <class T>
struct HeadNormRotaryArgs {
  HeadNorm<T> of[2];
  int count;                 // of these
  const int64_t* positions;  // [tokens], each < known (the device stops otherwise)
  const acc_t<T>*cos, *sin;  // [known, dim / 2]
  int64_t tokens, known;
  int dim;
  double eps;
  bool from_rstd;
};
// At most this many elements in a head.
constexpr int kMostHeadDim = 512;
// Bytes: x and y once.
template <class T>
void head_norm_rotary(const HeadNormRotaryArgs<T>& a, cudaStream_t stream);

// dx of each and dweight [count, dim]; `parts` is scratch [head_norm_parts(a), count, dim]. Between
// the rotation back and the norm's backward nothing is rounded. Bytes: dy, x and dx once.
template <class T>
void head_norm_rotary_backward(acc_t<T>* dweight, acc_t<T>* parts, const HeadNormRotaryArgs<T>& a,
                               cudaStream_t stream);
template <class T>
int64_t head_norm_parts(const HeadNormRotaryArgs<T>& a);

}  // namespace conclave::kernels
