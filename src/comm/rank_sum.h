// Sums over ranks as comm.h promises them: in rank order, added in fp32 or wider, rounded once.
#pragma once
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace conclave::comm {

// Σ over ranks r of in(r)[i] in rank order, for i in 0 … count−1: added in Sum, rounded once to T,
// and given to `put(begin, n, sums)` in blocks. A block is read whole before it is put, so `put`
// may overwrite what was read.
template <class T, class Sum, class In, class Put>
void sum_in_rank_order(int ranks, int64_t count, const In& in, const Put& put) {
  constexpr int64_t kBlock = 1024;
  std::array<Sum, kBlock> sum;
  std::array<T, kBlock> rounded;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    for (int r = 0; r < ranks; ++r) {
      const T* x = in(r) + begin;
      for (int64_t i = 0; i < n; ++i)
        sum[i] = r == 0 ? static_cast<Sum>(x[i]) : sum[i] + static_cast<Sum>(x[i]);
    }
    for (int64_t i = 0; i < n; ++i) rounded[i] = static_cast<T>(sum[i]);
    put(begin, n, rounded.data());
  }
}

// Calls f(T{}, Sum{}): the type of the elements and the type in which they are added.
template <class F>
void with_sum_type(at::ScalarType dtype, const F& f) {
  switch (dtype) {
    case at::kFloat:
      return f(float{}, float{});
    case at::kDouble:
      return f(double{}, double{});
    case at::kBFloat16:
      return f(c10::BFloat16{}, float{});
    case at::kLong:
      return f(int64_t{}, uint64_t{});  // wraps around, like ATen's sum
    default:
      TORCH_INTERNAL_ASSERT(false, "no sum of ", c10::toString(dtype));
  }
}

}  // namespace conclave::comm
