// A thread makes one pair; 256 threads a block. Bytes: out once. Bound by fp64 arithmetic
// (logarithm, root, sine and cosine of a pair).
#include "kernels/pack.cuh"
#include "kernels/random.h"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256;

// base/random.h's philox, block `pair` of a stream: words 0 and 1 as one number, 2 and 3 as
// another.
CONCLAVE_DEVICE void philox(uint64_t key, uint64_t pair, uint64_t stream, uint64_t& first,
                            uint64_t& second) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(pair), c1 = static_cast<uint32_t>(pair >> 32),
           c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  first = c0 | uint64_t{c1} << 32;
  second = c2 | uint64_t{c3} << 32;
}

CONCLAVE_DEVICE double unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

template <class T>
CONCLAVE_DEVICE T stored(double x) {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return narrow<T>(static_cast<float>(x));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(T* out, uint64_t seed, uint64_t stream, uint64_t begin, uint64_t count,
                double stddev) {
  const uint64_t pair = begin / 2 + static_cast<uint64_t>(global_thread()), end = begin + count;
  if (2 * pair >= end) return;
  uint64_t first, second;
  philox(seed, pair, stream, first, second);
  const double radius = sqrt(-2 * log(1 - unit(first)));
  double sine, cosine;
  sincos(2 * 3.14159265358979323846 * unit(second), &sine, &cosine);
  if (2 * pair >= begin) out[2 * pair - begin] = stored<T>(stddev * (radius * cosine));
  if (2 * pair + 1 < end) out[2 * pair + 1 - begin] = stored<T>(stddev * (radius * sine));
}

}  // namespace

template <class T>
void fill_normal(T* out, uint64_t seed, uint64_t stream_of, uint64_t begin, uint64_t count,
                 double stddev, cudaStream_t stream) {
  if (count == 0) return;
  const int64_t pairs = static_cast<int64_t>((begin + count + 1) / 2 - begin / 2);
  fill_kernel<<<static_cast<unsigned>(blocks_of(pairs, kThreads)), kThreads, 0, stream>>>(
      out, seed, stream_of, begin, count, stddev);
  check_launch("fill_normal");
}

template void fill_normal<float>(float*, uint64_t, uint64_t, uint64_t, uint64_t, double,
                                 cudaStream_t);
template void fill_normal<double>(double*, uint64_t, uint64_t, uint64_t, uint64_t, double,
                                  cudaStream_t);
template void fill_normal<bf16>(bf16*, uint64_t, uint64_t, uint64_t, uint64_t, double,
                                cudaStream_t);

}  // namespace conclave::kernels
