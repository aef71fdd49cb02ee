// One matrix product on the calling thread, for ops that cut their work into blocks themselves
// (ops/blocks.h): the bits depend on the sizes, leading dimensions and alignment of the operands,
// never on the number of threads.
#pragma once
#include <c10/util/BFloat16.h>

#include <cstdint>

namespace conclave::ops {

// C ← alpha · op(A) · op(B) + beta · C with row-major matrices: op(A) [m, k], op(B) [k, n], C [m,
// n]. A is [m, k] with lda elements a row (transa: [k, m]); B is [k, n] with ldb (transb: [n, k]);
// C's rows are ldc apart. With beta = 0 C is not read. Any of m, n, k may be 0 (k = 0: C ← beta ·
// C).
void gemm(bool transa, bool transb, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
          int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
void gemm(bool transa, bool transb, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
          int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc);
// bf16 operands, sums in fp32, an fp32 result: who wants bf16 rounds the block once at the end.
void gemm(bool transa, bool transb, int64_t m, int64_t n, int64_t k, float alpha,
          const c10::BFloat16* a, int64_t lda, const c10::BFloat16* b, int64_t ldb, float beta,
          float* c, int64_t ldc);

}  // namespace conclave::ops
