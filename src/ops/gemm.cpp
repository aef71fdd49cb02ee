#include "ops/gemm.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "ops/simd.h"

// Exported by libtorch_cpu, which carries MKL (its headers are not installed). Column-major, 32-bit
// sizes.
extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*,
            const float*, const int*, const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*,
            const double*, const int*, const double*, const int*, const double*, double*,
            const int*);
int MKL_Set_Num_Threads_Local(int);
}

namespace conclave::ops {
namespace {

// MKL would use all threads when it is called outside a parallel region, and cut the sums
// differently.
class OneThread {
 public:
  OneThread() : before_(MKL_Set_Num_Threads_Local(1)) {}
  ~OneThread() { MKL_Set_Num_Threads_Local(before_); }
  OneThread(const OneThread&) = delete;

 private:
  int before_;
};

int narrow(int64_t size) {
  TORCH_CHECK(size >= 0 && size <= std::numeric_limits<int>::max(),
              "gemm: expected sizes of 0 … 2147483647, got ", size);
  return static_cast<int>(size);
}

// Row-major C = A · B is column-major Cᵀ = Bᵀ · Aᵀ on the same memory.
template <class In, class Out, class F>
void row_major(const F& f, bool transa, bool transb, int64_t m, int64_t n, int64_t k, Out alpha,
               const In* a, int64_t lda, const In* b, int64_t ldb, Out beta, Out* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  int m_ = narrow(m), n_ = narrow(n), k_ = narrow(k);
  int lda_ = std::max(narrow(lda), 1), ldb_ = std::max(narrow(ldb), 1),
      ldc_ = std::max(narrow(ldc), 1);
  OneThread one;
  f(transb ? "T" : "N", transa ? "T" : "N", &n_, &m_, &k_, &alpha, b, &ldb_, a, &lda_, &beta, c,
    &ldc_);
}

// to [rows, row] ← from, whose rows are ld apart.
void convert(std::vector<float>& to, const c10::BFloat16* from, int64_t rows, int64_t row,
             int64_t ld) {
  if (to.size() < static_cast<size_t>(rows * row)) to.resize(rows * row);
  for (int64_t r = 0; r < rows; ++r)
    sweep<float>(row, [&, y = to.data() + r * row, x = from + r * ld](int64_t i, auto lanes) {
      store(y + i, load(x + i, lanes), lanes);
    });
}

}  // namespace

void gemm(bool transa, bool transb, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
          int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  row_major(sgemm_, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void gemm(bool transa, bool transb, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
          int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  row_major(dgemm_, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// MKL's gemm_bf16bf16f32 reaches 80 GFLOP/s a core where sgemm on converted operands reaches 130
// (Xeon with AVX512_BF16, 512 x 512 x 512), and flushes subnormal operands; so k is cut into pieces
// that are converted, exactly, and multiplied in fp32.
void gemm(bool transa, bool transb, int64_t m, int64_t n, int64_t k, float alpha,
          const c10::BFloat16* a, int64_t lda, const c10::BFloat16* b, int64_t ldb, float beta,
          float* c, int64_t ldc) {
  constexpr int64_t kPiece = 512;
  thread_local std::vector<float> piece_a, piece_b;
  for (int64_t begin = 0; begin == 0 || begin < k; begin += kPiece) {
    const int64_t size = std::min(kPiece, k - begin);
    const auto [rows_a, row_a] = transa ? std::pair{size, m} : std::pair{m, size};
    const auto [rows_b, row_b] = transb ? std::pair{n, size} : std::pair{size, n};
    convert(piece_a, a + (transa ? begin * lda : begin), rows_a, row_a, lda);
    convert(piece_b, b + (transb ? begin : begin * ldb), rows_b, row_b, ldb);
    gemm(transa, transb, m, n, size, alpha, piece_a.data(), row_a, piece_b.data(), row_b,
         begin == 0 ? beta : 1.f, c, ldc);
  }
}

}  // namespace conclave::ops
