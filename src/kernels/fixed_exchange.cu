// Layouts: a thread a token, which compares its slots pair by pair, or a thread a slot. Rows: flat
// over packs of 16 bytes where addresses and widths allow, as kernels/gather.cu. 256 threads a
// block.
#include <algorithm>

#include "kernels/fixed_exchange.h"
#include "kernels/pack.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kInFlight = 8;

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(std::max<int64_t>(blocks_of(threads, kThreads), 1));
}

CONCLAVE_DEVICE void raise(int64_t* needed, int64_t rows) {
  if (rows > *needed) *needed = rows;
}

__global__ void __launch_bounds__(kThreads) sent_bins_kernel(int64_t* bins, const SentRows p) {
  const int64_t pair = global_thread();
  if (pair >= p.tokens * p.top_k) return;
  int64_t token;
  int j;
  split(pair, p.top_k, token, j);
  const int64_t* ids = p.ids + token * p.top_k;
  const int64_t id = ids[j];
  if (id < 0 || id >= static_cast<int64_t>(p.local) * p.ranks) __trap();
  const int rank = static_cast<int>(id / p.local);
  bool first = true;
  for (int i = 0; i < j; ++i) first &= ids[i] / p.local != rank;
  bins[pair] = first ? rank : p.ranks;
  atomicAdd(p.pairs + rank, 1);
}

__global__ void __launch_bounds__(kThreads) sent_rows_kernel(const SentRows p) {
  const int64_t token = global_thread();
  if (token == 0) {
    for (int r = 0; r < p.ranks; ++r) {
      raise(p.needed, p.offsets[r + 1] - p.offsets[r]);
      p.message[r * (1 + p.capacity) * p.top_k] = p.pairs[r];
    }
  }
  if (token >= p.tokens) return;
  const int64_t first = token * p.top_k;
  const int fan = min(p.top_k, p.ranks);
  int rank[kMostSlots], at[kMostSlots];  // of each slot; −1: left out
  for (int j = 0; j < p.top_k; ++j) {
    rank[j] = static_cast<int>(p.ids[first + j] / p.local);
    int leader = j;
    for (int i = 0; i < j; ++i)
      if (rank[i] == rank[j]) {
        leader = i;
        break;
      }
    if (leader < j) {
      at[j] = at[leader];
      continue;
    }
    const int n = p.sorted[first + j] - p.offsets[rank[j]];
    at[j] = n < p.capacity ? static_cast<int>(rank[j] * p.capacity) + n : -1;
  }
  for (int i = 0; i < fan; ++i) p.rows[token * fan + i] = -1;
  for (int j = 0; j < p.top_k; ++j) {
    p.slot[first + j] = at[j] < 0 ? -1 : at[j] * p.top_k + j;
    if (at[j] < 0) continue;
    p.message[(static_cast<int64_t>(at[j]) + rank[j] + 1) * p.top_k + j] =
        static_cast<int32_t>(p.ids[first + j] % p.local);
    // Of the rows of lower ranks, each counted at its first slot; and whether this slot is one.
    int before = 0;
    bool leads = true;
    for (int i = 0; i < p.top_k; ++i) {
      bool leads_i = at[i] >= 0;
      for (int h = 0; h < i; ++h) leads_i &= rank[h] != rank[i];
      before += leads_i && rank[i] < rank[j];
      leads &= i >= j || rank[i] != rank[j];
    }
    if (!leads) continue;
    p.token[at[j]] = static_cast<int32_t>(token);
    p.rows[token * fan + before] = at[j];
  }
}

__global__ void __launch_bounds__(kThreads)
    arrived_bins_kernel(int64_t* bins, int64_t slots, const ArrivedRows p) {
  const int64_t slot = global_thread();
  if (slot >= slots) return;
  const int64_t rank = slot / (p.capacity * p.top_k);
  const int expert = p.message[slot + (rank + 1) * p.top_k];
  bins[slot] = expert < 0 ? p.local : expert;
}

__global__ void __launch_bounds__(kThreads)
    arrived_rows_kernel(int64_t slots, const ArrivedRows p) {
  const int64_t i = global_thread();
  const int64_t there = min(static_cast<int64_t>(p.begins[p.local]), p.room);
  if (i == 0) {
    int64_t pairs = 0;
    for (int r = 0; r < p.ranks; ++r) pairs += p.message[r * (1 + p.capacity) * p.top_k];
    raise(p.needed, pairs);
  }
  if (i <= p.local)
    p.offsets[i] = static_cast<int32_t>(min(static_cast<int64_t>(p.begins[i]), p.room));
  if (i < slots) p.expert_row[i] = p.sorted[i] < there ? p.sorted[i] : -1;
  if (i < p.room) {
    const int slot = i < there ? p.pair[i] : -1;
    p.slot[i] = slot;
    p.row[i] = slot < 0 ? -1 : slot / p.top_k;
  }
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    take_kernel(Unit* out, const Unit* x, const int32_t* index, int64_t units, int width) {
  const int64_t unit = global_thread();
  if (unit >= units) return;
  int64_t row;
  int part;
  split(unit, width, row, part);
  const int64_t from = index[row];
  out[unit] = from < 0 ? Unit{} : x[from * width + part];
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(T* out, const T* x, const int32_t* index, int64_t units, int k, int packs) {
  using A = acc_t<T>;
  const int64_t unit = global_thread();
  if (unit >= units) return;
  int64_t row;
  int part;
  split(unit, packs, row, part);
  const int32_t* from = index + row * k;
  A sum[N] = {};
  for (int begin = 0; begin < k; begin += kInFlight) {
    Pack<T, N> loaded[kInFlight];
    bool there[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const int64_t at = begin + j < k ? from[begin + j] : -1;
      there[j] = at >= 0;
      if (there[j]) loaded[j] = load<N>(x + (at * packs + part) * N);
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (there[j])
#pragma unroll
        for (int n = 0; n < N; ++n) sum[n] += wide(loaded[j].at[n]);
  }
  store(out + unit * N, narrow<T>(sum));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    element_kernel(T* out, const T* x, const int32_t* index, int64_t n) {
  const int64_t i = global_thread();
  if (i >= n) return;
  const int64_t from = index[i];
  out[i] = from < 0 ? T(0) : x[from];
}

}  // namespace

void sent_bins(int64_t* bins, const SentRows& p, cudaStream_t stream) {
  if (p.tokens == 0) return;
  sent_bins_kernel<<<blocks_for(p.tokens * p.top_k), kThreads, 0, stream>>>(bins, p);
  check_launch("sent_bins");
}

void sent_rows(const SentRows& p, cudaStream_t stream) {
  sent_rows_kernel<<<blocks_for(p.tokens), kThreads, 0, stream>>>(p);
  check_launch("sent_rows");
}

void arrived_bins(int64_t* bins, const ArrivedRows& p, cudaStream_t stream) {
  const int64_t slots = p.ranks * p.capacity * p.top_k;
  arrived_bins_kernel<<<blocks_for(slots), kThreads, 0, stream>>>(bins, slots, p);
  check_launch("arrived_bins");
}

void arrived_rows(const ArrivedRows& p, cudaStream_t stream) {
  const int64_t slots = p.ranks * p.capacity * p.top_k;
  const int64_t threads = std::max({slots, p.room, static_cast<int64_t>(p.local) + 1});
  arrived_rows_kernel<<<blocks_for(threads), kThreads, 0, stream>>>(slots, p);
  check_launch("arrived_rows");
}

void take_or_zero(void* out, const void* x, const int32_t* index, int64_t n, int64_t bytes,
                  cudaStream_t stream) {
  if (n == 0 || bytes == 0) return;
  const auto run = [&](auto unit) {
    using Unit = decltype(unit);
    const int64_t width = bytes / static_cast<int64_t>(sizeof(Unit));
    take_kernel<<<blocks_for(n * width), kThreads, 0, stream>>>(static_cast<Unit*>(out),
                                                                static_cast<const Unit*>(x), index,
                                                                n * width, static_cast<int>(width));
  };
  if (aligned16(bytes, out, x))
    run(uint4{});
  else if (bytes % 4 == 0)
    run(uint32_t{});
  else
    run(uint8_t{});
  check_launch("take_or_zero");
}

template <class T>
void sum_of_rows(T* out, const T* x, const int32_t* index, int64_t n, int k, int64_t width,
                 cudaStream_t stream) {
  if (n == 0 || width == 0) return;
  constexpr int N = kPack<T>;
  const bool in_packs = width % N == 0 && aligned16(0, out, x);
  const int packs = static_cast<int>(in_packs ? width / N : width);
  const unsigned blocks = blocks_for(n * packs);
  if (in_packs)
    sum_kernel<T, N><<<blocks, kThreads, 0, stream>>>(out, x, index, n * packs, k, packs);
  else
    sum_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(out, x, index, n * packs, k, packs);
  check_launch("sum_of_rows");
}
template void sum_of_rows(float*, const float*, const int32_t*, int64_t, int, int64_t,
                          cudaStream_t);
template void sum_of_rows(bf16*, const bf16*, const int32_t*, int64_t, int, int64_t, cudaStream_t);

template <class T>
void element_or_zero(T* out, const T* x, const int32_t* index, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  element_kernel<<<blocks_for(n), kThreads, 0, stream>>>(out, x, index, n);
  check_launch("element_or_zero");
}
template void element_or_zero(float*, const float*, const int32_t*, int64_t, cudaStream_t);
template void element_or_zero(double*, const double*, const int32_t*, int64_t, cudaStream_t);

}  // namespace conclave::kernels
