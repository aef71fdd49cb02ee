// A block of 512 stays on its multiprocessor and takes every gridDim-th row. A thread has fixed
// packs of the row: kSlots of them in shared memory (224 KB a block), kTail in registers, so that a
// row of up to 155,648 (196,608) logits is read once; what is longer is read again. As soon as the
// gradient of a pack is written, the pack of the next row is copied to where it was (cp.async,
// waited for by the thread that asked for it), so a whole row is on its way while another is
// written, and no barrier is needed but the one in the sum. A block a row without this reached 74 %
// of a copy at 151,936 on an H100: a multiprocessor had nothing in flight between its rows' two
// passes.
#include <cuda_pipeline_primitives.h>

#include <algorithm>

#include "kernels/cross_entropy_long.h"
#include "kernels/online_softmax.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 512, N = 8, kBatches = 7, kBatch = 4, kSlots = kBatches * kBatch;
constexpr int kSharedBytes = kSlots * kThreads * N * static_cast<int>(sizeof(bf16));
// Shorter rows do better with several blocks a multiprocessor.
constexpr int64_t kShortest = 65536;

// The elements at which this thread's packs begin.
CONCLAVE_DEVICE int place(int pack) {
  return (pack * kThreads + static_cast<int>(threadIdx.x)) * N;
}

// e^x as 2^(x · log2 e): one operation less where the shift is in the same units.
constexpr float kLog2E = 1.44269504f;
CONCLAVE_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <int kTail>
struct Block {
  bf16* logits;
  int vocab;
  uint4* slots;  // [kSlots, kThreads]
  Pack<bf16, N> tail[kTail];

  CONCLAVE_DEVICE bf16* slot(int s) const {
    return reinterpret_cast<bf16*>(slots + s * kThreads + threadIdx.x);
  }
  CONCLAVE_DEVICE void ask_for_slot(const bf16* row, int s) {
    if (place(s) < vocab) __pipeline_memcpy_async(slot(s), row + place(s), 16);
  }
  CONCLAVE_DEVICE void ask_for_tail(const bf16* row, int t) {
    if (place(kSlots + t) < vocab) tail[t] = load<N>(row + place(kSlots + t));
  }

  // f(pack) for each pack of this thread, in order; those in shared memory as they land.
  template <class F>
  CONCLAVE_DEVICE void each_as_it_lands(const bf16* row, const F& f) {
#pragma unroll
    for (int b = 0; b < kBatches; ++b) {
      __pipeline_wait_prior(kBatches - 1 - b);
#pragma unroll
      for (int s = b * kBatch; s < (b + 1) * kBatch; ++s)
        if (place(s) < vocab) f(load<N>(slot(s)));
    }
#pragma unroll
    for (int t = 0; t < kTail; ++t)
      if (place(kSlots + t) < vocab) f(tail[t]);
    for (int p = kSlots + kTail; place(p) < vocab; ++p) f(load<N>(row + place(p)));
  }

  // Replaces each pack of the row by f(pack, its place), and asks for that of the next row, null:
  // none.
  template <class F>
  CONCLAVE_DEVICE void replace(bf16* row, const bf16* next, const F& f) {
    for (int p = kSlots + kTail; place(p) < vocab; ++p)
      store(row + place(p), f(load<N>(row + place(p)), place(p)));
#pragma unroll
    for (int t = 0; t < kTail; ++t) {
      if (place(kSlots + t) < vocab) store(row + place(kSlots + t), f(tail[t], place(kSlots + t)));
      if (next) ask_for_tail(next, t);
    }
#pragma unroll
    for (int b = 0; b < kBatches; ++b) {
#pragma unroll
      for (int s = b * kBatch; s < (b + 1) * kBatch; ++s) {
        if (place(s) < vocab) store(row + place(s), f(load<N>(slot(s)), place(s)));
        if (next) ask_for_slot(next, s);
      }
      __pipeline_commit();  // a group a batch, also an empty one
    }
  }

  CONCLAVE_DEVICE void ask_for_all(const bf16* row) {
#pragma unroll
    for (int t = 0; t < kTail; ++t) ask_for_tail(row, t);
#pragma unroll
    for (int b = 0; b < kBatches; ++b) {
#pragma unroll
      for (int s = b * kBatch; s < (b + 1) * kBatch; ++s) ask_for_slot(row, s);
      __pipeline_commit();
    }
  }
};

CONCLAVE_DEVICE void add_pack_base2(Online<bf16>& online, const Pack<bf16, N>& pack) {
  float x[N], largest = wide(pack.at[0]);
#pragma unroll
  for (int n = 0; n < N; ++n) {
    x[n] = wide(pack.at[n]);
    largest = x[n] > largest ? x[n] : largest;
  }
  if (largest > online.most) {
    online.sum *= exp2_approximate((online.most - largest) * kLog2E);
    online.most = largest;
  }
  const float shift = online.most == -INFINITY ? 0.f : online.most * kLog2E;
#pragma unroll
  for (int n = 0; n < N; ++n) online.sum += exp2_approximate(fmaf(x[n], kLog2E, -shift));
}

template <int kTail>
__global__ void __launch_bounds__(kThreads, 1)
    long_rows_kernel(double* losses, bf16* logits, const int64_t* labels, float seed,
                     const CrossEntropySizes s) {
  extern __shared__ uint4 memory[];
  __shared__ OnlineParts<bf16, kThreads> parts[2];
  Block<kTail> block{logits, static_cast<int>(s.vocab), memory, {}};
  auto scored = [&](int64_t row) { return row < s.tokens && labels[row] != s.ignore; };
  int64_t row = blockIdx.x;
  bool counts = scored(row);
  if (counts) block.ask_for_all(logits + row * s.vocab);
  int turn = 0;
  for (; row < s.tokens; row += gridDim.x) {
    bf16* at = logits + row * s.vocab;
    const int64_t next_row = row + gridDim.x;
    const bool next_counts = scored(next_row);
    const bf16* next = next_counts ? logits + next_row * s.vocab : nullptr;
    if (counts) {
      const int64_t label = labels[row];
      DEVICE_CHECK(label >= 0 && label < s.vocab,
                   "cross_entropy: a label is outside of the vocabulary");
      const float target = wide(at[label]);  // before any thread overwrites it: a barrier follows
      Online<bf16> online;
      block.each_as_it_lands(at, [&](const Pack<bf16, N>& pack) { add_pack_base2(online, pack); });
      online = online_of_block(online, parts[turn]);
      turn ^= 1;
      if (threadIdx.x == 0)
        losses[row] = log(static_cast<double>(online.sum)) +
                      (static_cast<double>(online.most) - static_cast<double>(target));
      const float shift = online.most * kLog2E, scale = seed / online.sum;
      const int own = static_cast<int>(label);
      block.replace(at, next, [&](const Pack<bf16, N>& pack, int first) {
        float out[N];
#pragma unroll
        for (int n = 0; n < N; ++n)
          out[n] = exp2_approximate(fmaf(wide(pack.at[n]), kLog2E, -shift)) * scale;
        // p − 1 before the product with the seed: near p = 1 the difference is what counts.
        if (own >= first && own < first + N)
#pragma unroll
          for (int n = 0; n < N; ++n)
            if (own == first + n)
              out[n] =
                  (exp2_approximate(fmaf(wide(pack.at[n]), kLog2E, -shift)) / online.sum - 1.f) *
                  seed;
        return narrow<bf16>(out);
      });
    } else {
      if (threadIdx.x == 0) losses[row] = 0;
      block.replace(at, next, [](const Pack<bf16, N>&, int) { return Pack<bf16, N>{}; });
    }
    counts = next_counts;
  }
}

struct Device {
  int multiprocessors, shared_bytes;
};
Device device() {
  int id = 0;
  Device d{};
  cudaGetDevice(&id);
  cudaDeviceGetAttribute(&d.multiprocessors, cudaDevAttrMultiProcessorCount, id);
  cudaDeviceGetAttribute(&d.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, id);
  return d;
}

template <int kTail>
void launch(double* losses, bf16* logits, const int64_t* labels, double seed,
            const CrossEntropySizes& s, int multiprocessors, cudaStream_t stream) {
  auto kernel = long_rows_kernel<kTail>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  check_launch("cross_entropy's shared memory");
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(s.tokens, multiprocessors));
  kernel<<<blocks, kThreads, kSharedBytes, stream>>>(losses, logits, labels,
                                                     static_cast<float>(seed), s);
  check_launch("cross_entropy");
}

}  // namespace

bool cross_entropy_long(double* losses, bf16* logits, const int64_t* labels, double seed,
                        const CrossEntropySizes& s, cudaStream_t stream) {
  if (s.vocab < kShortest || s.vocab > INT32_MAX - kThreads * N || s.vocab % N != 0 ||
      !aligned16(0, logits))
    return false;
  const Device d = device();
  if (d.shared_bytes < kSharedBytes + static_cast<int>(sizeof(OnlineParts<bf16, kThreads>)) * 2)
    return false;
  if (s.vocab <= (kSlots + 10) * kThreads * N)
    launch<10>(losses, logits, labels, seed, s, d.multiprocessors, stream);
  else
    launch<20>(losses, logits, labels, seed, s, d.multiprocessors, stream);
  return true;
}

}  // namespace conclave::kernels
