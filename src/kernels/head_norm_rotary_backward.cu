// A block's lane groups take every gridDim-th group of rows (a token's heads), first of the
// queries, then of the keys; Σ dy · x̂ of their columns stays in registers, a block adds its groups
// in fixed order, kernels/reduce the blocks. Heads are cut as kernels/head_norm_cut.cuh says.
//
// What a row needs is on its way while those before it are worked on, in shared memory: with the
// next row in registers there was no room for enough of them (0.71 of a copy). A turn has some 15
// instructions an element.
//
// One H100, 2026-11-25, 16,384 tokens × (32 + 4) heads of 128 bf16 beside a copy of as many bytes
// (bench/kernels_bench.cpp): 0.90 of its rate.
#include "kernels/head_norm_cut.cuh"
#include "kernels/ptx.cuh"
#include "kernels/reduce.h"

namespace conclave::kernels {
namespace {

// kAhead: rows of a lane group that are on their way; kResident: blocks on a multiprocessor.
constexpr int kThreads = 128, kAhead = 5, kResident = 4;

// The rows of a lane group in the backward, in turn. Their sides are copied to shared memory kAhead
// rows ahead, by each thread to places of its own, so that nobody waits for anybody; the table's
// row and rstd come into registers one row ahead, the position two. Packs that are not 16 bytes are
// read where they are needed.
template <class T, int N, int kLanes, int kPacks>
class Rows {
  using A = acc_t<T>;

 public:
  static constexpr bool kAsync = kPacks == 1 && N * sizeof(T) == 16;
  static constexpr int kStages = kAhead + 1, kShared = kAsync ? kStages * 4 * kThreads : 0;

  CONCLAVE_DEVICE Rows(const HeadNormRotaryArgs<T>& a, const HeadNorm<T>& h, uint4* shared)
      : a_(a),
        h_(h),
        lane_(threadIdx.x % kLanes),
        half_(a.dim / 2),
        rows_(a.tokens * h.heads),
        first_(static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes)),
        row_(first_ + threadIdx.x / kLanes),
        step_(static_cast<int64_t>(gridDim.x) * (kThreads / kLanes)),
        shared_(shared + threadIdx.x) {
    if (rows_ == 0) return;
    split(row_, h.heads, token_, head_);
    split(step_, h.heads, tokens_a_step_, heads_a_step_);
    position_ = next_position(row_);
    read_table_and_rstd(row_);
    position_ = next_position(row_ + step_);
    if constexpr (kAsync)
#pragma unroll
      for (int s = 0; s < kAhead; ++s) copy(row_ + s * step_, s);
  }

  // The same number of turns for all threads of a block.
  CONCLAVE_DEVICE bool more() const { return first_ < rows_; }
  CONCLAVE_DEVICE void next() {
    row_ += step_;
    first_ += step_;
    if (++stage_ == kStages) stage_ = 0;
  }
  // Before a row's sides are read. All threads call it.
  CONCLAVE_DEVICE void arrive() {
    if constexpr (kAsync) {
      copy(row_ + kAhead * step_, stage_ == 0 ? kAhead : stage_ - 1);
      ptx::cp_async_wait_groups<kAhead>();
    }
  }
  // The next row's table and rstd, once this row's are not needed any more.
  CONCLAVE_DEVICE void read_ahead() {
    read_table_and_rstd(row_ + step_);
    position_ = next_position(row_ + 2 * step_);
  }

  CONCLAVE_DEVICE int start(int p) const { return (p * kLanes + lane_) * N; }
  CONCLAVE_DEVICE bool holds(int p) const { return row_ < rows_ && start(p) < half_; }
  CONCLAVE_DEVICE int64_t place(int p) const { return row_ * a_.dim + start(p); }
  CONCLAVE_DEVICE Sides<T, N> dy(int p) const { return read(h_.dy, 0, p); }
  CONCLAVE_DEVICE Sides<T, N> x(int p) const { return read(h_.x, 1, p); }
  Pack<A, N> cos[kPacks], sin[kPacks];
  A rstd;

 private:
  CONCLAVE_DEVICE int64_t next_position(int64_t row) {
    const int64_t position = row < rows_ ? a_.positions[token_] : 0;
    token_ += tokens_a_step_;
    head_ += heads_a_step_;
    if (head_ >= h_.heads) head_ -= h_.heads, ++token_;
    return position;
  }
  CONCLAVE_DEVICE void read_table_and_rstd(int64_t row) {
    if (row >= rows_) return;
    const int64_t from = checked_position(position_, a_.known) * half_;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (start(p) >= half_) continue;
      cos[p] = load<N>(a_.cos + from + start(p));
      sin[p] = load<N>(a_.sin + from + start(p));
    }
    rstd = h_.rstd[row];
  }
  // Sides a and b of dy, then of x.
  CONCLAVE_DEVICE uint4* at(int stage, int side) const {
    return shared_ + (stage * 4 + side) * kThreads;
  }
  CONCLAVE_DEVICE void copy(int64_t row, int stage) {
    if (row < rows_ && start(0) < half_) {
      const int64_t from = row * a_.dim + start(0);
#pragma unroll
      for (int side = 0; side < 4; ++side)
        ptx::cp_async16(ptx::smem(at(stage, side)),
                        (side < 2 ? h_.dy : h_.x) + from + side % 2 * half_);
    }
    ptx::cp_async_commit();
  }
  CONCLAVE_DEVICE Sides<T, N> read(const T* from, int which, int p) const {
    Sides<T, N> sides;
    if constexpr (kAsync)
      sides = {load<N>(reinterpret_cast<const T*>(at(stage_, 2 * which))),
               load<N>(reinterpret_cast<const T*>(at(stage_, 2 * which + 1)))};
    else
      sides.read(from + place(p), half_);
    return sides;
  }

  const HeadNormRotaryArgs<T>& a_;
  const HeadNorm<T>& h_;
  int lane_, half_;
  int64_t rows_, first_, row_, step_;  // first_: of the block's groups
  uint4* shared_;
  int stage_ = 0;
  int64_t token_, tokens_a_step_;  // of the row whose position is read next
  int head_, heads_a_step_;
  int64_t position_;
};

// One side of a row in the backward. g: the gradient behind the norm, becomes g · weight; adds to
// Σ g · x̂ with x̂ as it was rounded; x̂ itself, not rounded, to `normal`. Gives Σ g · weight · x̂.
template <class T, int N>
CONCLAVE_DEVICE acc_t<T> backward_side(acc_t<T> (&g)[N], acc_t<T> (&normal)[N], const Pack<T, N>& x,
                                       acc_t<T> r, const acc_t<T> (&weight)[N],
                                       acc_t<T> (&dweight)[N]) {
  acc_t<T> stored[N], dot = 0;
  widen(normal, x);
#pragma unroll
  for (int n = 0; n < N; ++n) normal[n] *= r;
  widen(stored, narrow<T>(normal));
#pragma unroll
  for (int n = 0; n < N; ++n) {
    dweight[n] += g[n] * stored[n];
    g[n] *= weight[n];
    dot += g[n] * normal[n];
  }
  return dot;
}

// (g − x̂ · mean) · r, over g.
template <class T, int N>
CONCLAVE_DEVICE void store_dx(T* dx, acc_t<T> (&g)[N], const acc_t<T> (&normal)[N], acc_t<T> mean,
                              acc_t<T> r) {
#pragma unroll
  for (int n = 0; n < N; ++n) g[n] = (g[n] - normal[n] * mean) * r;
  store(dx, narrow<T>(g));
}

// Σ over a block's groups of what each lane holds for its columns: a warp's groups by exchange,
// then the warps one after the other. `total` [dim] is shared memory.
template <int N, int kLanes, int kPacks, class A>
CONCLAVE_DEVICE void sum_of_groups(A* out, A (&a)[kPacks][N], A (&b)[kPacks][N], int half,
                                   A* total) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int apart = kLanes; apart < 32; apart *= 2) {
        a[p][n] += __shfl_xor_sync(0xffffffffu, a[p][n], apart);
        b[p][n] += __shfl_xor_sync(0xffffffffu, b[p][n], apart);
      }
  for (int warp = 0; warp < kThreads / 32; ++warp) {
    if (threadIdx.x / 32 == warp && threadIdx.x % 32 < kLanes) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int i = (p * kLanes + lane) * N;
        if (i >= half) continue;
#pragma unroll
        for (int n = 0; n < N; ++n) {
          total[i + n] = a[p][n] + (warp == 0 ? A(0) : total[i + n]);
          total[half + i + n] = b[p][n] + (warp == 0 ? A(0) : total[half + i + n]);
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < 2 * half; i += kThreads) out[i] = total[i];
}

// Σ dy · x̂ of this block's rows to `part` [dim].
template <class T, int N, int kLanes, int kPacks>
CONCLAVE_DEVICE void backward_of(acc_t<T>* part, const HeadNormRotaryArgs<T>& a,
                                 const HeadNorm<T>& h, uint4* shared) {
  using A = acc_t<T>;
  const int half = a.dim / 2;
  Rows<T, N, kLanes, kPacks> rows(a, h, shared);
  A weight_a[kPacks][N] = {}, weight_b[kPacks][N] = {}, dweight_a[kPacks][N] = {},
    dweight_b[kPacks][N] = {};
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (rows.start(p) >= half) continue;
    widen(weight_a[p], load<N>(h.weight + rows.start(p)));
    widen(weight_b[p], load<N>(h.weight + half + rows.start(p)));
  }
  for (; rows.more(); rows.next()) {
    rows.arrive();
    A u[kPacks][N], v[kPacks][N], normal_a[kPacks][N], normal_b[kPacks][N], dot = 0;
    const A r = rows.rstd;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!rows.holds(p)) continue;
      const Sides<T, N> dy = rows.dy(p);
      widen(u[p], dy.a);
      widen(v[p], dy.b);
      rotate(u[p], v[p], rows.cos[p], rows.sin[p], A(-1));
    }
    rows.read_ahead();
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!rows.holds(p)) continue;
      const Sides<T, N> x = rows.x(p);
      dot += backward_side(u[p], normal_a[p], x.a, r, weight_a[p], dweight_a[p]);
      dot += backward_side(v[p], normal_b[p], x.b, r, weight_b[p], dweight_b[p]);
    }
    const A mean = sum_of_lanes<kLanes>(dot) / A(a.dim);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!rows.holds(p)) continue;
      T* dx = h.y + rows.place(p);
      store_dx(dx, u[p], normal_a[p], mean, r);
      store_dx(dx + half, v[p], normal_b[p], mean, r);
    }
  }
  __syncthreads();  // the rows in shared memory are read
  sum_of_groups<N, kLanes, kPacks>(part, dweight_a, dweight_b, half, reinterpret_cast<A*>(shared));
  __syncthreads();
}

template <class T, int N, int kLanes, int kPacks>
__global__ void __launch_bounds__(kThreads, kPacks == 1 ? kResident : 1)
    backward_kernel(acc_t<T>* parts, const __grid_constant__ HeadNormRotaryArgs<T> a) {
  constexpr int kTotal = kMostHeadDim * sizeof(acc_t<T>) / sizeof(uint4);
  __shared__ uint4 shared[std::max(Rows<T, N, kLanes, kPacks>::kShared, kTotal)];
  acc_t<T>* part = parts + static_cast<int64_t>(blockIdx.x) * a.count * a.dim;
#pragma unroll 1
  for (int i = 0; i < a.count; ++i)
    backward_of<T, N, kLanes, kPacks>(part + i * a.dim, a, a.of[i], shared);
}

}  // namespace

template <class T>
int64_t head_norm_parts(const HeadNormRotaryArgs<T>& a) {
  return with_cut(a, [&]<int kLanes, int kPacks, int N>() {
    return std::min(blocks_of(most_rows(a), kThreads / kLanes), int64_t{132 * kResident});
  });
}

template <class T>
void head_norm_rotary_backward(acc_t<T>* dweight, acc_t<T>* parts, const HeadNormRotaryArgs<T>& a,
                               cudaStream_t stream) {
  const int64_t blocks = head_norm_parts(a);
  if (blocks > 0) {
    with_cut(a, [&]<int kLanes, int kPacks, int N>() {
      backward_kernel<T, N, kLanes, kPacks>
          <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(parts, a);
    });
    check_launch("head_norm_rotary_backward");
  }
  sum_parts(dweight, parts, blocks, a.count * a.dim, false, stream);
}

#define INSTANTIATE(T)                                                                           \
  template void head_norm_rotary_backward<T>(acc_t<T>*, acc_t<T>*, const HeadNormRotaryArgs<T>&, \
                                             cudaStream_t);                                      \
  template int64_t head_norm_parts<T>(const HeadNormRotaryArgs<T>&)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(bf16);

}  // namespace conclave::kernels
