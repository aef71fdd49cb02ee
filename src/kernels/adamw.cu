// A thread updates 8 neighbouring elements, read and written in 16-byte accesses; 256 threads a
// block. Decay ranges go along as a kernel argument, 32 at a time: a shard with more is cut into
// several launches, quicker where ranges begin on multiples of 8 (weights do, on 256). A block that
// lies in one range, or in none, decides so once. Source of the order of operations:
// torch.optim.AdamW.
#include <algorithm>

#include "kernels/adamw.h"
#include "kernels/pack.cuh"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kEach = 8, kBlock = kThreads * kEach, kRanges = 32;

struct Ranges {
  int64_t begin[kRanges], end[kRanges];
  int count;

  CONCLAVE_DEVICE bool hold(int64_t i) const {
    bool inside = false;
    for (int r = 0; r < count; ++r) inside |= begin[r] <= i && i < end[r];
    return inside;
  }
};

CONCLAVE_DEVICE float join(bf16 hi, int16_t lo) {
  return __uint_as_float((static_cast<uint32_t>(hi.bits) << 16) +
                         static_cast<uint32_t>(static_cast<int32_t>(lo)));
}

// A NaN becomes the quiet one: rounding up the bits of another could carry into the sign.
CONCLAVE_DEVICE void split_halves(float master, bf16& hi, int16_t& lo) {
  uint32_t bits = __float_as_uint(master);
  if ((bits & 0x7fffffffu) > 0x7f800000u) bits = 0x7fc00000u;
  const uint32_t upper = (bits + 0x8000u) >> 16;
  hi.bits = static_cast<uint16_t>(upper);
  lo = static_cast<int16_t>(bits - (upper << 16));
}

// Up to N elements from i on; all of them in 16-byte accesses where `whole`.
template <int N, class T>
CONCLAVE_DEVICE Pack<T, N> load_some(const T* from, int64_t i, int64_t end, bool whole) {
  if (whole) return load<N>(from + i);
  Pack<T, N> pack = {};
#pragma unroll
  for (int k = 0; k < N; ++k)
    if (i + k < end) pack.at[k] = from[i + k];
  return pack;
}

template <class T, int N>
CONCLAVE_DEVICE void store_some(T* to, int64_t i, int64_t end, bool whole, const Pack<T, N>& pack) {
  if (whole) return store(to + i, pack);
#pragma unroll
  for (int k = 0; k < N; ++k)
    if (i + k < end) to[i + k] = pack.at[k];
}

template <class W, class M, class G, bool kSplit>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const __grid_constant__ AdamWArgs<W, M, G> a,
                 const __grid_constant__ Ranges ranges, int64_t begin, int64_t end, bool aligned) {
  using A = acc_t<W>;
  const AdamWScalars& from = a.on_device ? *a.on_device : a.scalars;
  const double grad_scale = from.grad_scale;
  if (!isfinite(grad_scale)) return;
  const int64_t block = begin + static_cast<int64_t>(blockIdx.x) * kBlock,
                block_end = block + kBlock < end ? block + kBlock : end,
                i = block + threadIdx.x * kEach;
  if (i >= end) return;
  const bool whole = aligned && i + kEach <= end;
  const A keep = A(from.keep), rest1 = A(from.rest1), beta2 = A(from.beta2), rest2 = A(from.rest2),
          root_bc2 = A(from.root_bc2), eps = A(from.eps), minus_size = A(from.minus_size),
          scale = A(grad_scale);
  const Pack<W, kEach> w = load_some<kEach>(a.w, i, end, whole);
  Pack<int16_t, kEach> lo = {};
  if constexpr (kSplit) lo = load_some<kEach>(a.lo, i, end, whole);
  const Pack<M, kEach> m = load_some<kEach>(a.m, i, end, whole),
                       v = load_some<kEach>(a.v, i, end, whole);
  const Pack<G, kEach> g = load_some<kEach>(a.g, i, end, whole);
  bool mixed = false, inside = false;
  for (int r = 0; r < ranges.count; ++r) {
    const bool starts = ranges.begin[r] > block &&
                        ranges.begin[r]<block_end, ends = ranges.end[r]> block &&
                        ranges.end[r] < block_end;
    mixed |= starts || ends;
    inside |= ranges.begin[r] <= block && ranges.end[r] >= block_end;
  }
  A new_w[kEach], new_m[kEach], new_v[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    A weight;
    if constexpr (kSplit)
      weight = join(w.at[k], lo.at[k]);
    else
      weight = wide(w.at[k]);
    const A gradient = A(wide(g.at[k])) * scale;
    weight *= (mixed ? ranges.hold(i + k) : inside) ? keep : A(1);
    new_m[k] = A(wide(m.at[k])) + rest1 * (gradient - A(wide(m.at[k])));
    new_v[k] = A(wide(v.at[k])) * beta2 + rest2 * gradient * gradient;
    new_w[k] = weight + minus_size * new_m[k] / (sqrt(new_v[k]) / root_bc2 + eps);
  }
  if constexpr (kSplit) {
    Pack<W, kEach> hi;
#pragma unroll
    for (int k = 0; k < kEach; ++k) split_halves(new_w[k], hi.at[k], lo.at[k]);
    store_some(a.w, i, end, whole, hi);
    store_some(a.lo, i, end, whole, lo);
  } else {
    store_some(a.w, i, end, whole, narrow<W>(new_w));
  }
  store_some(a.m, i, end, whole, narrow<M>(new_m));
  store_some(a.v, i, end, whole, narrow<M>(new_v));
}

template <class W, class M, class G>
void launch(const AdamWArgs<W, M, G>& a, const Ranges& ranges, int64_t begin, int64_t end,
            cudaStream_t stream) {
  if (begin >= end) return;
  const bool aligned = begin % kEach == 0 && aligned16(0, a.w, a.lo, a.m, a.v, a.g);
  const unsigned blocks = static_cast<unsigned>(blocks_of(end - begin, kBlock));
  if constexpr (std::is_same_v<W, bf16>)
    if (a.lo) {
      adamw_kernel<W, M, G, true><<<blocks, kThreads, 0, stream>>>(a, ranges, begin, end, aligned);
      return check_launch("adamw");
    }
  adamw_kernel<W, M, G, false><<<blocks, kThreads, 0, stream>>>(a, ranges, begin, end, aligned);
  check_launch("adamw");
}

__global__ void scalars_kernel(AdamWScalars* out, int64_t* steps, const double* lr,
                               const double* scale, const AdamWRule rule) {
  out->grad_scale = *scale;
  if (!isfinite(*scale)) return;
  const double step = static_cast<double>(++*steps);
  out->keep = 1 - *lr * rule.weight_decay;
  out->rest1 = 1 - rule.beta1;
  out->beta2 = rule.beta2;
  out->rest2 = 1 - rule.beta2;
  out->root_bc2 = sqrt(1 - pow(rule.beta2, step));
  out->eps = rule.eps;
  out->minus_size = -(*lr / (1 - pow(rule.beta1, step)));
}

__global__ void clip_kernel(double* scale, const double* squared_sum, const double* loss,
                            double clip) {
  const double norm = sqrt(*squared_sum);
  const double factor = clip > 0 ? fmin(1.0, clip / (norm + 1e-6)) : 1.0;
  const bool finite = isfinite(norm) && (!loss || isfinite(*loss));
  *scale = finite ? factor : __longlong_as_double(0x7ff8000000000000);
}

__global__ void __launch_bounds__(kThreads)
    split_kernel(bf16* hi, int16_t* lo, const float* master, int64_t n, bool aligned) {
  const int64_t i = global_thread() * kEach;
  if (i >= n) return;
  const bool whole = aligned && i + kEach <= n;
  const Pack<float, kEach> from = load_some<kEach>(master, i, n, whole);
  Pack<bf16, kEach> h;
  Pack<int16_t, kEach> l;
#pragma unroll
  for (int k = 0; k < kEach; ++k) split_halves(from.at[k], h.at[k], l.at[k]);
  store_some(hi, i, n, whole, h);
  store_some(lo, i, n, whole, l);
}

__global__ void __launch_bounds__(kThreads)
    join_kernel(float* master, const bf16* hi, const int16_t* lo, int64_t n, bool aligned) {
  const int64_t i = global_thread() * kEach;
  if (i >= n) return;
  const bool whole = aligned && i + kEach <= n;
  const Pack<bf16, kEach> h = load_some<kEach>(hi, i, n, whole);
  const Pack<int16_t, kEach> l = load_some<kEach>(lo, i, n, whole);
  Pack<float, kEach> out;
#pragma unroll
  for (int k = 0; k < kEach; ++k) out.at[k] = join(h.at[k], l.at[k]);
  store_some(master, i, n, whole, out);
}

}  // namespace

void adamw_scalars(AdamWScalars* out, int64_t* steps, const double* lr, const double* scale,
                   const AdamWRule& rule, cudaStream_t stream) {
  scalars_kernel<<<1, 1, 0, stream>>>(out, steps, lr, scale, rule);
  check_launch("adamw_scalars");
}

void clip_scale(double* scale, const double* squared_sum, const double* loss, double clip,
                cudaStream_t stream) {
  clip_kernel<<<1, 1, 0, stream>>>(scale, squared_sum, loss, clip);
  check_launch("clip_scale");
}

template <class W, class M, class G>
void adamw(const AdamWArgs<W, M, G>& a, cudaStream_t stream) {
  const int64_t count = a.decay.count / 2;
  int64_t begin = 0;
  for (int64_t first = 0; begin < a.n; first += kRanges) {
    Ranges ranges{};
    ranges.count = static_cast<int>(std::clamp<int64_t>(count - first, 0, kRanges));
    for (int r = 0; r < ranges.count; ++r) {
      ranges.begin[r] = a.decay.borders[2 * (first + r)];
      ranges.end[r] = a.decay.borders[2 * (first + r) + 1];
    }
    // The next launch begins with the next range: what lies before it has no decay.
    const int64_t end = first + kRanges < count ? a.decay.borders[2 * (first + kRanges)] : a.n;
    launch(a, ranges, begin, end, stream);
    begin = end;
  }
}

void split_master(bf16* hi, int16_t* lo, const float* master, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  split_kernel<<<static_cast<unsigned>(blocks_of(n, kBlock)), kThreads, 0, stream>>>(
      hi, lo, master, n, aligned16(0, hi, lo, master));
  check_launch("split_master");
}

void join_master(float* master, const bf16* hi, const int16_t* lo, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  join_kernel<<<static_cast<unsigned>(blocks_of(n, kBlock)), kThreads, 0, stream>>>(
      master, hi, lo, n, aligned16(0, master, hi, lo));
  check_launch("join_master");
}

template void adamw<float, float, float>(const AdamWArgs<float, float, float>&, cudaStream_t);
template void adamw<double, double, double>(const AdamWArgs<double, double, double>&, cudaStream_t);
template void adamw<bf16, float, float>(const AdamWArgs<bf16, float, float>&, cudaStream_t);
template void adamw<bf16, float, bf16>(const AdamWArgs<bf16, float, bf16>&, cudaStream_t);
template void adamw<bf16, bf16, float>(const AdamWArgs<bf16, bf16, float>&, cudaStream_t);
template void adamw<bf16, bf16, bf16>(const AdamWArgs<bf16, bf16, bf16>&, cudaStream_t);

}  // namespace conclave::kernels
