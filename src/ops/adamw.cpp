#include "ops/adamw.h"

#include <ATen/ops/empty.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "ops/adamw_cuda.h"
#include "ops/adamw_scalars.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

constexpr int64_t kBlock = 16384;  // elements: 64 KiB of each operand in fp32

// As the update uses them.
template <class A>
struct Scalars {
  explicit Scalars(const AdamWScalars& s)
      : keep(static_cast<A>(s.keep)),
        rest1(static_cast<A>(s.rest1)),
        beta2(static_cast<A>(s.beta2)),
        rest2(static_cast<A>(s.rest2)),
        root_bc2(static_cast<A>(s.root_bc2)),
        eps(static_cast<A>(s.eps)),
        minus_size(static_cast<A>(s.minus_size)),
        grad_scale(static_cast<A>(s.grad_scale)) {}
  A keep, rest1, beta2, rest2, root_bc2, eps, minus_size, grad_scale;
};

// One element, in torch.optim.AdamW's order of operations.
template <class A, class M, class G>
inline A update(A w, M& m_, M& v_, G g_, A keep, const Scalars<A>& s) {
  const A g = static_cast<A>(g_) * s.grad_scale;
  A m = static_cast<A>(m_), v = static_cast<A>(v_);
  w *= keep;
  m += s.rest1 * (g - m);
  v = v * s.beta2 + s.rest2 * g * g;
  m_ = static_cast<M>(m);
  v_ = static_cast<M>(v);
  const A denominator = std::sqrt(v) / s.root_bc2 + s.eps;
  return w + s.minus_size * m / denominator;
}

inline uint32_t join(uint16_t hi, int16_t lo) {
  return (static_cast<uint32_t>(hi) << 16) + static_cast<uint32_t>(static_cast<int32_t>(lo));
}

struct Halves {
  uint16_t hi;
  int16_t lo;
};
// A NaN becomes the quiet one: rounding up the bits of another could carry into the sign and leave
// a zero.
inline Halves split(uint32_t bits) {
  bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits;
  const uint32_t hi = (bits + 0x8000u) >> 16;
  return {static_cast<uint16_t>(hi), static_cast<int16_t>(bits - (hi << 16))};
}

void check_ranges(std::span<const int64_t> ranges, int64_t n) {
  TORCH_CHECK(ranges.size() % 2 == 0, "decay_ranges: expected pairs, got ", ranges.size(),
              " numbers");
  int64_t last = 0;
  for (size_t i = 0; i < ranges.size(); i += 2) {
    TORCH_CHECK(last <= ranges[i] && ranges[i] <= ranges[i + 1] && ranges[i + 1] <= n,
                "decay_ranges: expected ascending ranges within [0, ", n, "), got [", ranges[i],
                ", ", ranges[i + 1], ") after ", last);
    last = ranges[i + 1];
  }
}

// Calls f(begin, end, decays) on pieces that cover [0, n), spread over the threads: blocks, cut
// again where decay begins or ends.
template <class F>
void each_piece(int64_t n, std::span<const int64_t> ranges, const F& f) {
  each_block((n + kBlock - 1) / kBlock, 8 * kBlock, [&](int64_t block) {
    int64_t at = block * kBlock;
    const int64_t end = std::min(n, at + kBlock);
    // The first border behind `at`; an odd number of borders up to there means inside a range.
    size_t border =
        static_cast<size_t>(std::upper_bound(ranges.begin(), ranges.end(), at) - ranges.begin());
    for (; at < end; ++border) {
      const int64_t stop = border < ranges.size() ? std::min(end, ranges[border]) : end;
      if (at < stop) f(at, stop, border % 2 == 1);
      at = stop;
    }
  });
}

struct Operands {
  const at::Tensor &w, &lo, &m, &v, &g;  // lo undefined: no master
  std::span<const int64_t> ranges;
  const AdamWScalars& scalars;
};

template <class W, class M, class G>
void update_all(const Operands& o) {
  using A = acc_t<W>;
  W* w = o.w.data_ptr<W>();
  M *m = o.m.data_ptr<M>(), *v = o.v.data_ptr<M>();
  const G* g = o.g.const_data_ptr<G>();
  const Scalars<A> s(o.scalars);
  each_piece(o.w.numel(), o.ranges, [=](int64_t begin, int64_t end, bool decays) {
    const A keep = decays ? s.keep : A(1);
#pragma omp simd
    for (int64_t i = begin; i < end; ++i)
      w[i] = static_cast<W>(update<A>(static_cast<A>(w[i]), m[i], v[i], g[i], keep, s));
  });
}

template <class M, class G>
void update_split(const Operands& o) {
  auto* h = static_cast<uint16_t*>(o.w.data_ptr());
  auto* l = o.lo.data_ptr<int16_t>();
  M *m = o.m.data_ptr<M>(), *v = o.v.data_ptr<M>();
  const G* g = o.g.const_data_ptr<G>();
  const Scalars<float> s(o.scalars);
  each_piece(o.w.numel(), o.ranges, [=](int64_t begin, int64_t end, bool decays) {
    const float keep = decays ? s.keep : 1.0f;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float w =
          update<float>(std::bit_cast<float>(join(h[i], l[i])), m[i], v[i], g[i], keep, s);
      const Halves halves = split(std::bit_cast<uint32_t>(w));
      h[i] = halves.hi;
      l[i] = halves.lo;
    }
  });
}

// f(moment, gradient) with values of the types that bf16 weights may have beside them.
template <class F>
void with_types(const Operands& o, const F& f) {
  const bool narrow_m = o.m.scalar_type() == at::kBFloat16,
             narrow_g = o.g.scalar_type() == at::kBFloat16;
  if (narrow_m)
    narrow_g ? f(c10::BFloat16(), c10::BFloat16()) : f(c10::BFloat16(), float());
  else
    narrow_g ? f(float(), c10::BFloat16()) : f(float(), float());
}

void check_operands(const Operands& o) {
  const at::Tensor &w = o.w, &lo = o.lo, &m = o.m, &v = o.v, &g = o.g;
  const int64_t n = w.numel();
  CHECK_SHAPE(w, n);
  CHECK_SHAPE(m, n);
  CHECK_SHAPE(v, n);
  CHECK_SHAPE(g, n);
  CHECK_DTYPE(v, m.scalar_type());
  if (w.scalar_type() == at::kBFloat16) {
    for (const auto& [name, t] : {std::pair{"m", m}, {"g", g}})
      TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, name,
                  ": expected float or bf16 beside bf16 weights, got ", t.scalar_type());
  } else {
    TORCH_CHECK(w.scalar_type() == at::kFloat || w.scalar_type() == at::kDouble,
                "w: expected float, double or bf16, got ", w.scalar_type());
    CHECK_DTYPE(m, w.scalar_type());
    CHECK_DTYPE(g, w.scalar_type());
  }
  if (lo.defined()) {
    CHECK_DTYPE(w, at::kBFloat16);
    CHECK_SHAPE(lo, n);
    CHECK_DTYPE(lo, at::kShort);
  }
  check_ranges(o.ranges, n);
}

// on_device: the scalars as a tensor, or undefined.
void step(const Operands& o, const at::Tensor& on_device) {
  check_operands(o);
  if constexpr (kCudaBuild)
    if (o.w.is_cuda())
      return cuda::adamw_(o.w, o.lo, o.m, o.v, o.g, o.ranges, o.scalars, on_device);
  if (!std::isfinite(o.scalars.grad_scale)) return;
  if (o.lo.defined())
    with_types(o, [&]<class M, class G>(M, G) { update_split<M, G>(o); });
  else if (o.w.scalar_type() == at::kBFloat16)
    with_types(o, [&]<class M, class G>(M, G) { update_all<c10::BFloat16, M, G>(o); });
  else if (o.w.scalar_type() == at::kDouble)
    update_all<double, double, double>(o);
  else
    update_all<float, float, float>(o);
}

// What a tensor of scalars holds; zeros where only the kernel reads it.
AdamWScalars held_by(const at::Tensor& scalars) {
  CHECK_SHAPE(scalars, kAdamWScalars);
  CHECK_DTYPE(scalars, at::kDouble);
  AdamWScalars s{};
  if (scalars.is_cpu()) std::memcpy(&s, scalars.const_data_ptr<double>(), sizeof(s));
  return s;
}

}  // namespace

void adamw_(at::Tensor w, at::Tensor m, at::Tensor v, const at::Tensor& g,
            std::span<const int64_t> decay_ranges, const AdamWStep& s) {
  step({w, {}, m, v, g, decay_ranges, scalars_of(s)}, {});
}

void adamw_(at::Tensor w, at::Tensor m, at::Tensor v, const at::Tensor& g,
            std::span<const int64_t> decay_ranges, const at::Tensor& scalars) {
  step({w, {}, m, v, g, decay_ranges, held_by(scalars)}, scalars);
}

void adamw_split_(at::Tensor hi, at::Tensor lo, at::Tensor m, at::Tensor v, const at::Tensor& g,
                  std::span<const int64_t> decay_ranges, const AdamWStep& s) {
  TORCH_CHECK(lo.defined(), "lo: expected the master's low halves, got an undefined tensor");
  step({hi, lo, m, v, g, decay_ranges, scalars_of(s)}, {});
}

void adamw_split_(at::Tensor hi, at::Tensor lo, at::Tensor m, at::Tensor v, const at::Tensor& g,
                  std::span<const int64_t> decay_ranges, const at::Tensor& scalars) {
  TORCH_CHECK(lo.defined(), "lo: expected the master's low halves, got an undefined tensor");
  step({hi, lo, m, v, g, decay_ranges, held_by(scalars)}, scalars);
}

void split_master(const at::Tensor& master, at::Tensor hi, at::Tensor lo) {
  const int64_t n = master.numel();
  CHECK_SHAPE(master, n);
  CHECK_DTYPE(master, at::kFloat);
  CHECK_SHAPE(hi, n);
  CHECK_DTYPE(hi, at::kBFloat16);
  CHECK_SHAPE(lo, n);
  CHECK_DTYPE(lo, at::kShort);
  if constexpr (kCudaBuild)
    if (master.is_cuda()) return cuda::split_master(master, hi, lo);
  const float* from = master.const_data_ptr<float>();
  auto* h = static_cast<uint16_t*>(hi.data_ptr());
  auto* l = lo.data_ptr<int16_t>();
  each_piece(n, {}, [=](int64_t begin, int64_t end, bool) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const Halves halves = split(std::bit_cast<uint32_t>(from[i]));
      h[i] = halves.hi;
      l[i] = halves.lo;
    }
  });
}

at::Tensor join_master(const at::Tensor& hi, const at::Tensor& lo) {
  const int64_t n = hi.numel();
  CHECK_SHAPE(hi, n);
  CHECK_DTYPE(hi, at::kBFloat16);
  CHECK_SHAPE(lo, n);
  CHECK_DTYPE(lo, at::kShort);
  if constexpr (kCudaBuild)
    if (hi.is_cuda()) return cuda::join_master(hi, lo);
  at::Tensor master = at::empty({n}, hi.options().dtype(at::kFloat));
  const auto* h = static_cast<const uint16_t*>(hi.const_data_ptr());
  const auto* l = lo.const_data_ptr<int16_t>();
  float* to = master.data_ptr<float>();
  each_piece(n, {}, [=](int64_t begin, int64_t end, bool) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) to[i] = std::bit_cast<float>(join(h[i], l[i]));
  });
  return master;
}

}  // namespace conclave::ops
