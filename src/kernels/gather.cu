// Both go by tokens, flat over tokens · packs: a thread reads one pack of a token and writes it to
// the top_k rows (so x is read once, not top_k times), or reads that pack of the top_k rows, eight
// in flight at once, and writes their sum. 256 threads a block.
#include "kernels/gather.h"
#include "kernels/pack.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kInFlight = 8;

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(T* out, const T* x, const int32_t* row, int64_t units, const GatherSizes s) {
  const int64_t unit = global_thread();
  if (unit >= units) return;
  int64_t token;
  int part;
  split(unit, static_cast<int>(s.hidden / N), token, part);
  const Pack<T, N> pack = load<N>(x + token * s.hidden + part * N);
  const int32_t* to = row + token * s.top_k;
  for (int j = 0; j < s.top_k; ++j) store(out + to[j] * s.hidden + part * N, pack);
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(T* out, const T* rows, const int32_t* row, int64_t units, const GatherSizes s) {
  using A = acc_t<T>;
  const int64_t unit = global_thread();
  if (unit >= units) return;
  int64_t token;
  int part;
  split(unit, static_cast<int>(s.hidden / N), token, part);
  const int32_t* from = row + token * s.top_k;
  A sum[N] = {};
  for (int begin = 0; begin < s.top_k; begin += kInFlight) {
    Pack<T, N> packs[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (begin + j < s.top_k) packs[j] = load<N>(rows + from[begin + j] * s.hidden + part * N);
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (begin + j < s.top_k)
#pragma unroll
        for (int n = 0; n < N; ++n) sum[n] += wide(packs[j].at[n]);
  }
  store(out + token * s.hidden + part * N, narrow<T>(sum));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    elements_kernel(T* out, const T* from, const int32_t* index, int64_t n) {
  const int64_t i = global_thread();
  if (i < n) out[i] = from[index[i]];
}

}  // namespace

template <class T>
void gather_rows(T* out, const T* x, const int32_t* row, const GatherSizes& s,
                 cudaStream_t stream) {
  constexpr int N = kPack<T>;
  const bool packs = s.hidden % N == 0 && aligned16(0, out, x);
  const int64_t units = s.tokens * (packs ? s.hidden / N : s.hidden);
  if (units == 0) return;
  const unsigned blocks = static_cast<unsigned>(blocks_of(units, kThreads));
  if (packs)
    rows_kernel<T, N><<<blocks, kThreads, 0, stream>>>(out, x, row, units, s);
  else
    rows_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(out, x, row, units, s);
  check_launch("gather_rows");
}

template <class T>
void gather_sum(T* out, const T* rows, const int32_t* row, const GatherSizes& s,
                cudaStream_t stream) {
  constexpr int N = kPack<T>;
  const bool packs = s.hidden % N == 0 && aligned16(0, out, rows);
  const int64_t units = s.tokens * (packs ? s.hidden / N : s.hidden);
  if (units == 0) return;
  const unsigned blocks = static_cast<unsigned>(blocks_of(units, kThreads));
  if (packs)
    sum_kernel<T, N><<<blocks, kThreads, 0, stream>>>(out, rows, row, units, s);
  else
    sum_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(out, rows, row, units, s);
  check_launch("gather_sum");
}

template <class T>
void gather_elements(T* out, const T* from, const int32_t* index, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  elements_kernel<<<static_cast<unsigned>(blocks_of(n, kThreads)), kThreads, 0, stream>>>(out, from,
                                                                                          index, n);
  check_launch("gather_elements");
}

#define INSTANTIATE(T)                                                                          \
  template void gather_rows<T>(T*, const T*, const int32_t*, const GatherSizes&, cudaStream_t); \
  template void gather_sum<T>(T*, const T*, const int32_t*, const GatherSizes&, cudaStream_t)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(bf16);
template void gather_elements<float>(float*, const float*, const int32_t*, int64_t, cudaStream_t);
template void gather_elements<double>(double*, const double*, const int32_t*, int64_t,
                                      cudaStream_t);

}  // namespace conclave::kernels
