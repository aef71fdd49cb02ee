// RMSNorm, also of a sum with a residual, and its backward. Source: arXiv 1910.07467. T is float,
// double or bf16; statistics and sums over rows in acc_t<T>. x · rstd is rounded to T before the
// product with weight.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

template <class T>
struct RmsNormArgs {
  T* y;               // out [rows, hidden]
  acc_t<T>* rstd;     // out [rows]; what is read where `from_rstd`
  T* sum;             // out [rows, hidden]: x + residual, rounded, which is then normed; or null
  const T* x;         // [rows, hidden]
  const T* residual;  // [rows, hidden], or null
  const T* weight;    // [hidden]
  double eps;
  int64_t rows, hidden;
  bool from_rstd;  // statistics are there already; without residual
};
// Bytes: x and y once; with a residual it and the sum too.
template <class T>
void rms_norm(const RmsNormArgs<T>& a, cudaStream_t stream);

template <class T>
struct RmsNormBackwardArgs {
  T* dx;              // out [rows, hidden]
  acc_t<T>* dweight;  // out [hidden]
  acc_t<T>* parts;    // scratch [rms_norm_parts<T>(rows, hidden), hidden]
  const T *dy, *x;    // [rows, hidden]
  const T* dsum;      // [rows, hidden]: added to dx before it is rounded; or null
  const acc_t<T>* rstd;
  const T* weight;
  int64_t rows, hidden;
};
// Bytes: dy, x and dx once (and dsum), the parts twice. The cut into parts depends on the sizes
// only.
template <class T>
void rms_norm_backward(const RmsNormBackwardArgs<T>& a, cudaStream_t stream);
template <class T>
int64_t rms_norm_parts(int64_t rows, int64_t hidden);

}  // namespace conclave::kernels
