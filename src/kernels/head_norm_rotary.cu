// A lane group takes kHeads heads of a token that follow on each other, of the queries or of the
// keys: all that it reads is asked for before the first of it is used, and the token's place in the
// table is looked up once. Heads are cut as kernels/head_norm_cut.cuh says.
//
// One H100, 2026-11-25, 16,384 tokens × (32 + 4) heads of 128 bf16 beside a copy of as many bytes
// (bench/kernels_bench.cpp): 0.93 of its rate. With one head at a time 0.74 to 0.84, with four
// 0.92.
#include "kernels/head_norm_cut.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 128, kResident = 8, kMostHeads = 2;

// x̂ · weight as the norm by itself would store it.
template <class T, int N>
CONCLAVE_DEVICE void normed(acc_t<T> (&out)[N], const Pack<T, N>& x, acc_t<T> r,
                            const Pack<T, N>& weight) {
  widen(out, x);
#pragma unroll
  for (int n = 0; n < N; ++n) out[n] *= r;
  if constexpr (std::is_same_v<T, bf16> && N % 2 == 0) {
    Pack<T, N> product = narrow<T>(out);
#pragma unroll
    for (int n = 0; n < N; n += 2) {  // two bf16 products are exact in fp32: rounded once
      __nv_bfloat162 a, b;
      memcpy(&a, &product.at[n], sizeof(a));
      memcpy(&b, &weight.at[n], sizeof(b));
      a = __hmul2(a, b);
      memcpy(&product.at[n], &a, sizeof(a));
    }
    widen(out, product);
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) out[n] = rounded<T>(rounded<T>(out[n]) * wide(weight.at[n]));
  }
}

// `first_chunks` of a token's `chunks` of kHeads heads are a.of[0]'s.
template <class T, int N, int kLanes, int kPacks, int kHeads>
__global__ void __launch_bounds__(kThreads, kPacks == 1 ? kResident : 1)
    forward_kernel(const __grid_constant__ HeadNormRotaryArgs<T> a, int first_chunks, int chunks) {
  using A = acc_t<T>;
  const int lane = threadIdx.x % kLanes, half = a.dim / 2;
  int64_t token;
  int chunk;
  split(global_thread() / kLanes, chunks, token, chunk);
  const bool active = token < a.tokens;
  const HeadNorm<T>& h = a.of[chunk >= first_chunks];
  if (chunk >= first_chunks) chunk -= first_chunks;
  const int head = chunk * kHeads;
  const int64_t row = token * h.heads + head;
  Sides<T, N> x[kHeads][kPacks], weight[kPacks];
  Pack<A, N> cos[kPacks], sin[kPacks];
  auto holds = [=, limit = active ? half : 0](int p) { return (p * kLanes + lane) * N < limit; };
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (!holds(p)) continue;
    const int i = (p * kLanes + lane) * N;
#pragma unroll
    for (int k = 0; k < kHeads; ++k)
      if (head + k < h.heads) x[k][p].read(h.x + row * a.dim + k * a.dim + i, half);
    const int64_t place = checked_position(a.positions[token], a.known) * half + i;
    weight[p].read(h.weight + i, half);
    cos[p] = load<N>(a.cos + place);
    sin[p] = load<N>(a.sin + place);
  }
  A r[kHeads];
#pragma unroll
  for (int k = 0; k < kHeads; ++k) {
    A squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!holds(p) || head + k >= h.heads) continue;
      A u[N], v[N];
      widen(u, x[k][p].a);
      widen(v, x[k][p].b);
#pragma unroll
      for (int n = 0; n < N; ++n) squares += u[n] * u[n] + v[n] * v[n];
    }
    r[k] = sum_of_lanes<kLanes>(squares);
  }
  if (!holds(0)) return;
#pragma unroll
  for (int k = 0; k < kHeads; ++k) {
    if (head + k >= h.heads) continue;
    r[k] = a.from_rstd ? h.rstd[row + k] : A(1) / sqrt(r[k] / A(a.dim) + A(a.eps));
    if (!a.from_rstd && lane == 0) h.rstd[row + k] = r[k];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (!holds(p)) continue;
      A u[N], v[N];
      normed(u, x[k][p].a, r[k], weight[p].a);
      normed(v, x[k][p].b, r[k], weight[p].b);
      rotate(u, v, cos[p], sin[p], A(1));
      T* y = h.y + row * a.dim + k * a.dim + (p * kLanes + lane) * N;
      store(y, narrow<T>(u));
      store(y + half, narrow<T>(v));
    }
  }
}

}  // namespace

template <class T>
void head_norm_rotary(const HeadNormRotaryArgs<T>& a, cudaStream_t stream) {
  if (most_rows(a) == 0) return;
  with_cut(a, [&]<int kLanes, int kPacks, int N>() {
    constexpr int kHeads = kPacks == 1 ? kMostHeads : 1;
    const int first = static_cast<int>(blocks_of(a.of[0].heads, kHeads)),
              chunks = first + static_cast<int>(blocks_of(a.of[1].heads, kHeads));
    forward_kernel<T, N, kLanes, kPacks, kHeads>
        <<<static_cast<unsigned>(blocks_of(a.tokens * chunks, kThreads / kLanes)), kThreads, 0,
           stream>>>(a, first, chunks);
  });
  check_launch("head_norm_rotary");
}

template void head_norm_rotary<float>(const HeadNormRotaryArgs<float>&, cudaStream_t);
template void head_norm_rotary<double>(const HeadNormRotaryArgs<double>&, cudaStream_t);
template void head_norm_rotary<bf16>(const HeadNormRotaryArgs<bf16>&, cudaStream_t);

}  // namespace conclave::kernels
