#include "ops/adamw.h"

#include <ATen/ops/empty.h>

#include <bit>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/blocks.h"

namespace conclave::ops {
namespace {

constexpr int64_t kBlock = 16384;  // elements: 64 KiB of each operand in fp32

// Scalars of a step, computed in fp64 and rounded once, as torch.optim.AdamW hands them to its
// kernels.
template <class T>
struct Scalars {
  explicit Scalars(const AdamWStep& s) {
    TORCH_CHECK(s.step >= 1, "step: expected 1 for the first update or more, got ", s.step);
    const double bc1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
    const double bc2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
    keep = static_cast<T>(1 - s.lr * s.weight_decay);
    rest1 = static_cast<T>(1 - s.beta1);
    beta2 = static_cast<T>(s.beta2);
    rest2 = static_cast<T>(1 - s.beta2);
    root_bc2 = static_cast<T>(std::sqrt(bc2));
    eps = static_cast<T>(s.eps);
    minus_size = static_cast<T>(-(s.lr / bc1));
    grad_scale = static_cast<T>(s.grad_scale);
  }
  T keep, rest1, beta2, rest2, root_bc2, eps, minus_size, grad_scale;
};

// One element, in torch.optim.AdamW's order of operations.
template <class T>
inline T update(T w, T& m, T& v, T g, T keep, const Scalars<T>& s) {
  g *= s.grad_scale;
  w *= keep;
  m += s.rest1 * (g - m);
  v = v * s.beta2 + s.rest2 * g * g;
  const T denominator = std::sqrt(v) / s.root_bc2 + s.eps;
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

void check_operands(const at::Tensor& w, const at::Tensor& m, const at::Tensor& v,
                    const at::Tensor& g, std::span<const int64_t> decay_ranges) {
  const int64_t n = w.numel();
  CHECK_SHAPE(w, n);
  CHECK_SHAPE(m, n);
  CHECK_SHAPE(v, n);
  CHECK_SHAPE(g, n);
  CHECK_DTYPE(v, m.scalar_type());
  check_ranges(decay_ranges, n);
}

// W in memory and M of the moments; computed in the gradient's type.
template <class W, class M, class T>
void update_all(at::Tensor& w_, at::Tensor& m_, at::Tensor& v_, const at::Tensor& g_,
                std::span<const int64_t> ranges, const AdamWStep& step) {
  W* w = w_.data_ptr<W>();
  M *m = m_.data_ptr<M>(), *v = v_.data_ptr<M>();
  const T* g = g_.const_data_ptr<T>();
  const Scalars<T> s(step);
  each_piece(w_.numel(), ranges, [=](int64_t begin, int64_t end, bool decays) {
    const T keep = decays ? s.keep : T(1);
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      T mi = static_cast<T>(m[i]), vi = static_cast<T>(v[i]);
      w[i] = static_cast<W>(update(static_cast<T>(w[i]), mi, vi, g[i], keep, s));
      m[i] = static_cast<M>(mi), v[i] = static_cast<M>(vi);
    }
  });
}

template <class M>
void update_split(at::Tensor& hi, at::Tensor& lo, at::Tensor& m_, at::Tensor& v_,
                  const at::Tensor& g_, std::span<const int64_t> ranges, const AdamWStep& step) {
  auto* h = static_cast<uint16_t*>(hi.data_ptr());
  auto* l = lo.data_ptr<int16_t>();
  M *m = m_.data_ptr<M>(), *v = v_.data_ptr<M>();
  const float* g = g_.const_data_ptr<float>();
  const Scalars<float> s(step);
  each_piece(hi.numel(), ranges, [=](int64_t begin, int64_t end, bool decays) {
    const float keep = decays ? s.keep : 1.0f;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      float mi = static_cast<float>(m[i]), vi = static_cast<float>(v[i]);
      const float w = update(std::bit_cast<float>(join(h[i], l[i])), mi, vi, g[i], keep, s);
      const Halves halves = split(std::bit_cast<uint32_t>(w));
      h[i] = halves.hi;
      l[i] = halves.lo;
      m[i] = static_cast<M>(mi), v[i] = static_cast<M>(vi);
    }
  });
}

}  // namespace

void adamw_(at::Tensor w, at::Tensor m, at::Tensor v, const at::Tensor& g,
            std::span<const int64_t> decay_ranges, const AdamWStep& s) {
  check_operands(w, m, v, g, decay_ranges);
  if (w.scalar_type() == at::kBFloat16) {
    CHECK_DTYPE(g, at::kFloat);
    if (m.scalar_type() == at::kBFloat16)
      return update_all<at::BFloat16, at::BFloat16, float>(w, m, v, g, decay_ranges, s);
    CHECK_DTYPE(m, at::kFloat);
    return update_all<at::BFloat16, float, float>(w, m, v, g, decay_ranges, s);
  }
  TORCH_CHECK(w.scalar_type() == at::kFloat || w.scalar_type() == at::kDouble,
              "w: expected float, double or bfloat16, got ", w.scalar_type());
  CHECK_DTYPE(m, w.scalar_type());
  CHECK_DTYPE(g, w.scalar_type());
  if (w.scalar_type() == at::kDouble)
    update_all<double, double, double>(w, m, v, g, decay_ranges, s);
  else
    update_all<float, float, float>(w, m, v, g, decay_ranges, s);
}

void adamw_split_(at::Tensor hi, at::Tensor lo, at::Tensor m, at::Tensor v, const at::Tensor& g,
                  std::span<const int64_t> decay_ranges, const AdamWStep& step) {
  const int64_t n = hi.numel();
  check_operands(hi, m, v, g, decay_ranges);
  CHECK_DTYPE(hi, at::kBFloat16);
  CHECK_SHAPE(lo, n);
  CHECK_DTYPE(lo, at::kShort);
  CHECK_DTYPE(g, at::kFloat);
  if (m.scalar_type() == at::kBFloat16)
    return update_split<at::BFloat16>(hi, lo, m, v, g, decay_ranges, step);
  CHECK_DTYPE(m, at::kFloat);
  update_split<float>(hi, lo, m, v, g, decay_ranges, step);
}

void split_master(const at::Tensor& master, at::Tensor hi, at::Tensor lo) {
  const int64_t n = master.numel();
  CHECK_SHAPE(master, n);
  CHECK_DTYPE(master, at::kFloat);
  CHECK_SHAPE(hi, n);
  CHECK_DTYPE(hi, at::kBFloat16);
  CHECK_SHAPE(lo, n);
  CHECK_DTYPE(lo, at::kShort);
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
