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
// half-split rotation.
template <class T>
struct HeadNormRotaryArgs {
  RotaryArgs<T> rotary;  // passed = 0, not interleaved; y is not written by the backward
  acc_t<T>* rstd;   // out [tokens · heads]; what is read where `from_rstd` and by the backward
  const T* weight;  // [dim]
  double eps;
  bool from_rstd;
};
// At most this many elements in a head.
constexpr int kMostHeadDim = 512;
// Bytes: x and y once.
template <class T>
void head_norm_rotary(const HeadNormRotaryArgs<T>& a, cudaStream_t stream);

// With dy [tokens, heads, dim]: dx [tokens, heads, dim], dweight [dim]; `parts` is scratch
// [head_norm_parts(tokens · heads), dim]. Between the rotation back and the norm's backward nothing
// is rounded. Bytes: dy, x and dx once.
template <class T>
void head_norm_rotary_backward(T* dx, acc_t<T>* dweight, acc_t<T>* parts, const T* dy,
                               const HeadNormRotaryArgs<T>& a, cudaStream_t stream);
int64_t head_norm_parts(int64_t rows);

}  // namespace conclave::kernels
