// Forward: a thread copies one pack, flat over tokens · packs.
//
// Backward: first the tokens are brought into the order of their ids. A block of 1,024 threads a
// bucket, an id's lowest bits: it reads all ids, takes its own in the order of the tokens (a warp
// consecutive ones) to where the buckets before it end, and sorts them by the other bits, six at a
// time, counting. Then a block a token and 64 packs of columns: those at the first of equal ids add
// up all of their rows, a pack a thread, sums in registers.
//
// One H100, 2026-11-25, beside a copy of as many bytes (bench/kernels_bench.cpp): forward 0.93–0.94
// of its rate. The order of 16,384 ids takes 11 µs; with it the backward reaches 0.86 at 2,048
// columns, 0.88 at 2,880 and 0.92 at 7,168, each id there about once. One id's rows are a chain: a
// thousand of them take 240 µs.
#include "kernels/embedding.h"
#include "kernels/pack.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kSlab = 64, kInFlight = 4;
constexpr int kOrderThreads = 1024, kWarps = kOrderThreads / 32;
constexpr int kBucketBits = 7, kBuckets = 1 << kBucketBits;  // about the multiprocessors
constexpr int kDigitBits = 6, kDigits = 1 << kDigitBits;

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(T* out, const int64_t* ids, const T* weight, int64_t units,
                   const EmbeddingSizes s) {
  const int64_t unit = global_thread();
  if (unit >= units) return;
  int64_t token;
  int part;
  split(unit, static_cast<int>(s.hidden / N), token, part);
  const int64_t id = ids[token];
  DEVICE_CHECK(id >= 0 && id < s.vocab, "embedding: an id is outside of the vocabulary");
  store(out + token * s.hidden + part * N, load<N>(weight + id * s.hidden + part * N));
}

// Σ of v over the threads before this one, and over all of them.
struct Before {
  int sum, total;
};
CONCLAVE_DEVICE int inclusive_sum_of_warp(int v) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, v, step);
    if (static_cast<int>(threadIdx.x % 32) >= step) v += other;
  }
  return v;
}
CONCLAVE_DEVICE Before sum_before(int v, int (&warps)[kWarps]) {
  static_assert(kWarps == 32, "a lane a warp");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = inclusive_sum_of_warp(v);
  __syncthreads();
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  const int until = inclusive_sum_of_warp(warps[lane]),
            before = __shfl_sync(0xffffffffu, until, max(warp - 1, 0));
  return {(warp > 0 ? before : 0) + sum - v, __shfl_sync(0xffffffffu, until, 31)};
}

// A warp's share of n things in order, whole steps of 32 but for the last.
struct Share {
  int begin, end;
};
CONCLAVE_DEVICE Share share_of_warp(int n) {
  const int size = (n - 1) / kOrderThreads * 32 + 32,
            begin = min(n, static_cast<int>(threadIdx.x / 32) * size);
  return {begin, min(n, begin + size)};
}

// `to` becomes `from` in the order of the digit at `shift`; equal digits stay in order.
CONCLAVE_DEVICE void order_by_digit(Occurrence* to, const Occurrence* from, int n, int shift,
                                    int (&starts)[kDigits * kWarps], int (&warps)[kWarps]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t below = (1u << lane) - 1;
  const Share share = share_of_warp(n);
  __syncthreads();  // `from` is complete, nobody is at the digit before
  for (int i = threadIdx.x; i < kDigits * kWarps; i += kOrderThreads) starts[i] = 0;
  __syncthreads();
  // f(occurrence, how many of its digit this warp has met before), and those are counted on.
  auto each = [&](auto f) {
    for (int at = share.begin; at < share.end; at += 32) {
      const bool in = at + lane < share.end;
      const Occurrence o = in ? from[at + lane] : Occurrence{};
      const int digit = in ? (o.id >> shift) & (kDigits - 1) : kDigits;
      const uint32_t same = __match_any_sync(0xffffffffu, digit);
      int* counter = starts + (in ? digit * kWarps + warp : 0);
      const int start = in ? *counter : 0;
      __syncwarp();
      if (in) f(o, start + __popc(same & below));
      if (in && (same & below) == 0) *counter = start + __popc(same);
      __syncwarp();
    }
  };
  each([](Occurrence, int) {});
  __syncthreads();
  int* pair = starts + 2 * threadIdx.x;
  static_assert(kDigits * kWarps == 2 * kOrderThreads, "two counters a thread");
  const int first = pair[0], start = sum_before(first + pair[1], warps).sum;
  pair[0] = start;
  pair[1] = start + first;
  __syncthreads();
  each([&](Occurrence o, int place) { to[place] = o; });
}

// A template, as DEVICE_CHECK wants it.
template <int kBuckets>
__global__ void __launch_bounds__(kOrderThreads)
    order_kernel(Occurrence* order, Occurrence* spare, const int64_t* ids, const EmbeddingSizes s,
                 int digits) {
  __shared__ int starts[kDigits * kWarps], warps[kWarps];
  const int lane = threadIdx.x % 32, bucket = blockIdx.x;
  const Share share = share_of_warp(static_cast<int>(s.tokens));
  auto bucket_of = [](int64_t id) { return static_cast<int>(id & (kBuckets - 1)); };
  int mine = 0, lower = 0;
#pragma unroll 8
  for (int at = share.begin + lane; at < share.end; at += 32) {
    const int other = bucket_of(ids[at]);
    mine += other == bucket;
    lower += other < bucket;
  }
  const int begin = sum_before(lower, warps).total;
  const auto [before, n] = sum_before(mine, warps);
  if (n == 0) return;
  Occurrence *from = (digits % 2 == 0 ? order : spare) + begin,
             *to = (digits % 2 == 0 ? spare : order) + begin;
  int next = __shfl_sync(0xffffffffu, before, 0);  // place of the warp's next
#pragma unroll 4
  for (int at = share.begin; at < share.end; at += 32) {
    const bool in = at + lane < share.end;
    const int64_t id = in ? ids[at + lane] : 0;
    const bool take = in && bucket_of(id) == bucket;
    const uint32_t taken = __ballot_sync(0xffffffffu, take);
    if (take) {
      DEVICE_CHECK(id >= 0 && id < s.vocab,
                   "embedding_backward: an id is outside of the vocabulary");
      from[next + __popc(taken & ((1u << lane) - 1))] = {static_cast<int32_t>(id), at + lane};
    }
    next += __popc(taken);
  }
  for (int digit = 0; digit < digits; ++digit) {
    order_by_digit(to, from, n, kBucketBits + digit * kDigitBits, starts, warps);
    Occurrence* done = to;
    to = from;
    from = done;
  }
}

template <class T, class D, int N>
__global__ void __launch_bounds__(kSlab)
    backward_kernel(D* dweight, const Occurrence* order, const T* dy, const EmbeddingSizes s,
                    uint32_t slabs, int64_t padding) {
  using A = acc_t<T>;
  const int64_t first = blockIdx.x / slabs, id = order[first].id,
                i = (static_cast<int64_t>(blockIdx.x % slabs) * kSlab + threadIdx.x) * N;
  if (id == padding || (first > 0 && order[first - 1].id == id) || i >= s.hidden) return;
  D* to = dweight + id * s.hidden + i;
  const Pack<D, N> before = load<N>(to);
  A sum[N];
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n] = wide(before.at[n]);
  bool more = true;
  for (int64_t at = first; more; at += kInFlight) {
    Pack<T, N> rows[kInFlight];
    bool mine[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const Occurrence o = at + j < s.tokens ? order[at + j] : Occurrence{-1, 0};
      mine[j] = o.id == id;
      if (mine[j]) rows[j] = load<N>(dy + o.token * s.hidden + i);
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (mine[j])
#pragma unroll
        for (int n = 0; n < N; ++n) sum[n] += wide(rows[j].at[n]);
    more = mine[kInFlight - 1];
  }
  store(to, narrow<D>(sum));
}

template <class T, class D, int N>
void add_up(D* dweight, const Occurrence* order, const T* dy, const EmbeddingSizes& s,
            int64_t padding, cudaStream_t stream) {
  const int64_t slabs = blocks_of(s.hidden, kSlab * N);
  backward_kernel<T, D, N><<<static_cast<unsigned>(s.tokens * slabs), kSlab, 0, stream>>>(
      dweight, order, dy, s, static_cast<uint32_t>(slabs), padding);
  check_launch("embedding_backward");
}

}  // namespace

template <class T>
void embedding(T* out, const int64_t* ids, const T* weight, const EmbeddingSizes& s,
               cudaStream_t stream) {
  constexpr int N = kPack<T>;
  const bool packs = s.hidden % N == 0 && aligned16(0, out, weight);
  const int64_t units = s.tokens * (packs ? s.hidden / N : s.hidden);
  if (units == 0) return;
  const unsigned blocks = static_cast<unsigned>(blocks_of(units, kThreads));
  if (packs)
    forward_kernel<T, N><<<blocks, kThreads, 0, stream>>>(out, ids, weight, units, s);
  else
    forward_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(out, ids, weight, units, s);
  check_launch("embedding");
}

void order_by_id(Occurrence* order, Occurrence* spare, const int64_t* ids, const EmbeddingSizes& s,
                 cudaStream_t stream) {
  if (s.tokens == 0) return;
  int digits = 0;
  while (kBucketBits + digits * kDigitBits < 31 &&
         (s.vocab - 1) >> (kBucketBits + digits * kDigitBits) > 0)
    ++digits;
  order_kernel<kBuckets><<<kBuckets, kOrderThreads, 0, stream>>>(order, spare, ids, s, digits);
  check_launch("order_by_id");
}

template <class T, class D>
void embedding_backward(D* dweight, const Occurrence* order, const T* dy, const EmbeddingSizes& s,
                        int64_t padding, cudaStream_t stream) {
  constexpr int N = kPack<T>;
  if (s.tokens == 0 || s.hidden == 0) return;
  if (s.hidden % N == 0 && aligned16(0, dweight, dy))
    add_up<T, D, N>(dweight, order, dy, s, padding, stream);
  else
    add_up<T, D, 1>(dweight, order, dy, s, padding, stream);
}

#define INSTANTIATE(T, D)                                                                        \
  template void embedding_backward<T, D>(D*, const Occurrence*, const T*, const EmbeddingSizes&, \
                                         int64_t, cudaStream_t)
INSTANTIATE(float, float);
INSTANTIATE(double, double);
INSTANTIATE(bf16, float);
INSTANTIATE(bf16, bf16);
template void embedding<float>(float*, const int64_t*, const float*, const EmbeddingSizes&,
                               cudaStream_t);
template void embedding<double>(double*, const int64_t*, const double*, const EmbeddingSizes&,
                                cudaStream_t);
template void embedding<bf16>(bf16*, const int64_t*, const bf16*, const EmbeddingSizes&,
                              cudaStream_t);

}  // namespace conclave::kernels
