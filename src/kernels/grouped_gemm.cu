// The Forms of kernels/grouped_gemm.cuh, and their launch. `halves` takes 128 gate rows and 128 up
// rows of w a tile, so one thread owns matching gate and up columns; `interleaved` takes 256 rows
// as they stand, where the two are a register's halves.
//
// One H100, 2026-11-25, Qwen3's rank shape (16 experts, 65,536 rows; up 2048 → 1536, down 768 →
// 2048): up with its activation 652 TFLOP/s, 1.46 × gather + at::_grouped_mm + compiled SwiGLU
// (1.17 × at DeepSeek-V3's), 672 with rows in place; down 622, input gradients 656 and 663, where a
// GEMM of 8192³ ran at 701 to 719 (bench/experts_bench.cpp, bench/peer_experts.py).
#include "kernels/grouped_gemm.cuh"
#include "kernels/grouped_gemm.h"
#include "kernels/hopper.h"
#include "kernels/launch.h"
#include "kernels/tensor_map.h"

namespace conclave::kernels::grouped {

// gate · σ(slope · gate) of two gates, times `scale`: one reciprocal for both; the clamp keeps
// their product finite.
CONCLAVE_DEVICE void gated(float g0, float g1, float slope, float scale0, float scale1, float& y0,
                           float& y1) {
  const float to_base2 = slope * -1.442695041f;
  const float a = 1.f + ptx::exp2(fminf(g0 * to_base2, 60.f));
  const float b = 1.f + ptx::exp2(fminf(g1 * to_base2, 60.f));
  const float r = ptx::reciprocal(a * b);
  y0 = g0 * (r * b) * scale0;
  y1 = g1 * (r * a) * scale1;
}

template <ptx::Major major>
struct Product {
  static constexpr int kParts = 4;
  static constexpr bool kBias = major == ptx::Major::by_k, kWeightedBias = kBias;
  static constexpr bool kNarrow = true;
  static constexpr auto kMajor = major;

  CONCLAVE_DEVICE static int first_row(const Params&, int n, int half) {
    return n * 256 + half * 128;
  }

  template <int part>
  CONCLAVE_DEVICE static void finish(Finished& tile, const Epilogue& e) {
    put<16 * part>(tile, e, part & 1, &e.maps.out, e.p.out, e.p.columns, tile.n * 256 + part * 64);
  }
};

// v[0 … 32) are gate columns, v[32 … 64) the up columns beside them. Five parts for each 64 of
// them: two stores, the activations in two parts, their store.
struct Halves {
  static constexpr int kParts = 10;
  static constexpr bool kBias = false, kWeightedBias = false, kNarrow = false;
  static constexpr auto kMajor = ptx::Major::by_k;

  CONCLAVE_DEVICE static int first_row(const Params& p, int n, int half) {
    return half * (p.columns / 2) + n * 128;
  }

  template <int part>
  CONCLAVE_DEVICE static void finish(Finished& tile, const Epilogue& e) {
    constexpr int c = part / 5, q = part % 5, kGate = 16 * c, kUp = 32 + 16 * c;
    const Params& p = e.p;
    const int ffn = p.columns / 2, column = tile.n * 128 + c * 64;
    if constexpr (part == 0)
      load_weights(p, tile.row, tile.rows, e.lane, tile.weight0, tile.weight8);
    if constexpr (q == 0 || q == 1) {
      // Past the gate columns nothing may be stored: there the up columns begin.
      const int to = column < ffn ? q * ffn + column : p.columns;
      put<q == 0 ? kGate : kUp>(tile, e, q == 0 ? c : 1 - c, &e.maps.out, p.out, p.columns, to);
    }
    if constexpr (q == 2 || q == 3) {
#pragma unroll
      for (int i = 8 * (q - 2); i < 8 * (q - 1); ++i) {
        uint32_t& gate = tile.v[kGate + i];
        const uint32_t up = tile.v[kUp + i];
        const float weight = i & 1 ? tile.weight8 : tile.weight0;
        float y0, y1;
        gated(ptx::low(gate), ptx::high(gate), 1.f, weight, weight, y0, y1);
        gate = ptx::pack(y0 * ptx::low(up), y1 * ptx::high(up));
      }
    }
    if constexpr (q == 4) put<kGate>(tile, e, c, &e.maps.act, p.act, ffn, column);
  }
};

// Four stores, then twice: the activations of 64 columns in four parts, their store.
struct Interleaved {
  static constexpr int kParts = 14;
  static constexpr bool kBias = true, kWeightedBias = false;
  static constexpr bool kNarrow = false;  // no registers for it
  static constexpr auto kMajor = ptx::Major::by_k;

  CONCLAVE_DEVICE static int first_row(const Params&, int n, int half) {
    return n * 256 + half * 128;
  }

  CONCLAVE_DEVICE static float gate(uint32_t pair) { return ptx::min_or_nan(ptx::low(pair), 7.f); }
  CONCLAVE_DEVICE static float up(uint32_t pair) {
    return ptx::max_or_nan(ptx::min_or_nan(ptx::high(pair), 7.f), -7.f) + 1.f;
  }

  // A lane holds gate and up of an activation in a register, of column lane mod 4 of every four;
  // stores want two neighbours: lanes 2 i and 2 i + 1 of the quad have them, in the low or the high
  // half. v[at], v[at + 2] → v[to].
  template <int at, int to>
  CONCLAVE_DEVICE static void activate(Finished& tile, int lane) {
    const uint32_t a = tile.v[at], b = tile.v[at + 2];
    const float weight = at & 1 ? tile.weight8 : tile.weight0;
    float y0, y1;
    gated(gate(a), gate(b), 1.702f, up(a) * weight, up(b) * weight, y0, y1);
    const uint32_t y = ptx::pack(y0, y1);
    const int source = (lane & ~3) + (lane & 1) * 2;
    const uint32_t first = __shfl_sync(0xFFFFFFFFu, y, source),
                   second = __shfl_sync(0xFFFFFFFFu, y, source + 1);
    tile.v[to] = __byte_perm(first, second, lane & 2 ? 0x7632 : 0x5410);
  }

  template <int part>
  CONCLAVE_DEVICE static void finish(Finished& tile, const Epilogue& e) {
    const Params& p = e.p;
    if constexpr (part == 0)
      load_weights(p, tile.row, tile.rows, e.lane, tile.weight0, tile.weight8);
    if constexpr (part < 4) {
      put<16 * part>(tile, e, part & 1, &e.maps.out, p.out, p.columns, tile.n * 256 + part * 64);
    } else {
      constexpr int c = (part - 4) / 5, q = (part - 4) % 5, from = 32 * c + 8 * q,
                    to = 32 * c + 4 * q;
      if constexpr (q < 4) {  // in place: what is written was read in this part or before
        activate<from, to>(tile, e.lane);
        activate<from + 1, to + 1>(tile, e.lane);
        activate<from + 4, to + 2>(tile, e.lane);
        activate<from + 5, to + 3>(tile, e.lane);
      } else {
        put<32 * c>(tile, e, c & 1, &e.maps.act, p.act, p.columns / 2, tile.n * 128 + c * 64);
      }
    }
  }
};

}  // namespace conclave::kernels::grouped

namespace conclave::kernels {
namespace {

// f(Form{}) of a form.
template <class F>
void by_form(GroupedForm form, const F& f) {
  switch (form) {
    case GroupedForm::product:
      return f(grouped::Product<ptx::Major::by_k>());
    case GroupedForm::transposed:
      return f(grouped::Product<ptx::Major::by_row>());
    case GroupedForm::halves:
      return f(grouped::Halves());
    case GroupedForm::interleaved:
      return f(grouped::Interleaved());
  }
}

bool aligned(const void* at, int to) { return reinterpret_cast<uintptr_t>(at) % to == 0; }

bool is_product(GroupedForm form) {
  return form == GroupedForm::product || form == GroupedForm::transposed;
}

}  // namespace

bool grouped_gemm_supported(const GroupedGemm& p, GroupedForm form) {
  bool fits = false;
  by_form(form, [&]<class Form>(Form) {
    const void* kernel = reinterpret_cast<const void*>(grouped::grouped_gemm_kernel<Form>);
    fits = has_hopper_code(kernel) && p.depth >= Form::kParts * grouped::kDepth &&
           (Form::kBias || !p.bias);
  });
  const int64_t width = is_product(form) ? 64 : 128;
  return fits && p.depth % grouped::kDepth == 0 && p.columns > 0 && p.columns % width == 0 &&
         p.experts >= 1 && p.experts <= grouped::kMaxExperts && p.rows < (1ll << 31) &&
         p.depth < (1 << 30) && p.columns < (1 << 30) && aligned(p.x, 16) && aligned(p.w, 16) &&
         aligned(p.out, 16) && aligned(p.act, 16) && aligned(p.bias, 4);
}

void grouped_gemm(const GroupedGemm& p, GroupedForm form, cudaStream_t stream, int sms) {
  constexpr int kDepth = grouped::kDepth;
  grouped::Maps maps{};
  if (form == GroupedForm::transposed)
    tensor_map(&maps.w, p.w, {p.columns, p.depth, p.experts}, {64, kDepth, 1});
  else
    tensor_map(&maps.w, p.w, {p.depth, p.columns, p.experts}, {kDepth, 128, 1});
  if (!p.index) tensor_map(&maps.x, p.x, {p.depth, p.rows, 1}, {kDepth, grouped::kRows, 1});
  tensor_map(&maps.out, p.out, {p.columns, p.rows}, {64, 16});
  if (!is_product(form)) tensor_map(&maps.act, p.act, {p.columns / 2, p.rows}, {64, 16});
  const int n_tiles = static_cast<int>((p.columns + 255) / 256);
  const grouped::Params params{static_cast<const char*>(p.x),
                               p.index,
                               p.offsets,
                               p.weights,
                               static_cast<const __nv_bfloat16*>(p.bias),
                               static_cast<__nv_bfloat16*>(p.out),
                               static_cast<__nv_bfloat16*>(p.act),
                               static_cast<int>(p.rows),
                               static_cast<int>(p.depth),
                               static_cast<int>(p.columns),
                               p.experts,
                               n_tiles,
                               n_tiles < grouped::kBand ? n_tiles : grouped::kBand};
  const int all = multiprocessors(), blocks = sms > 0 && sms < all ? sms : all;
  by_form(form, [&]<class Form>(Form) {
    auto* kernel = grouped::grouped_gemm_kernel<Form>;
    allow_shared_memory(reinterpret_cast<const void*>(kernel), grouped::kSharedBytes);
    kernel<<<blocks, grouped::kThreads, grouped::kSharedBytes, stream>>>(maps, params);
    check_launch("grouped_gemm");
  });
}

}  // namespace conclave::kernels
