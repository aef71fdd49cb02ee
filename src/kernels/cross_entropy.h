// The softmax pass of a linear cross entropy: loss and, over the logits, their gradient.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

struct CrossEntropySizes {
  int64_t tokens, vocab;
  int64_t ignore;  // the label that is not scored
};
// losses[t] = −log softmax(logits[t])[labels[t]] in fp64, 0 where the label is `ignore` (the device
// stops at any other outside of the vocabulary). With `gradient`, logits [tokens, vocab] are
// overwritten by (softmax − onehot) · seed, zeros where not scored. T is float, double or bf16.
// Bytes: the logits twice with a gradient, once without.
template <class T>
void cross_entropy(double* losses, T* logits, const int64_t* labels, double seed, bool gradient,
                   const CrossEntropySizes& s, cudaStream_t stream);

}  // namespace conclave::kernels
