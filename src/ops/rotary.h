// Rotary position embedding, with YaRN for longer contexts. Sources: arXiv 2104.09864, arXiv
// 2309.00071; transformers 5.17.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

// Which elements of a head turn together: i and i + dim/2, or 2i and 2i + 1. The result stays in
// the order of its input.
enum class RotaryForm { half, interleaved };

struct RopeConfig {
  double theta = 10000;
  bool yarn = false;  // the rest is YaRN's
  double factor = 1;  // how many times longer the context has become
  double original_positions = 0;
  // Pairs that turn more than beta_fast times within original_positions keep their frequency, those
  // that turn less than beta_slow times have it divided by factor; between the two a ramp, whose
  // ends are widened to whole pairs if `truncate`.
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;
  // cos and sin are multiplied with attention_factor or, where that is 0, with
  // yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim), or with
  // yarn_mscale(factor, 1) where one of those is 0.
  double attention_factor = 0, mscale = 0, mscale_all_dim = 0;
};

// 0.1 · mscale · ln(factor) + 1; 1 for factor ≤ 1. DeepSeek multiplies the softmax's scale with the
// square of it at mscale_all_dim.
double yarn_mscale(double factor, double mscale);

struct RotaryTable {
  at::Tensor cos, sin;  // [positions, rotary_dim / 2]; fp64 for fp64 runs, else fp32
};

// Positions 0 … positions−1 times the frequencies of rotary_dim / 2 pairs, theta^(−2i/rotary_dim)
// but for YaRN. In fp32 with the very ATen calls of the reference, so that its roundings are
// shared; in fp64 nothing passes through a float.
RotaryTable rotary_table(int64_t positions, int64_t rotary_dim, const RopeConfig& config,
                         at::ScalarType dtype);

// x [tokens, heads, head_dim] · positions [tokens] int64, each < rows of the table → same shape and
// dtype as x. The first `passed` elements of each head stay as they are; the table is for the
// other head_dim − passed.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const RotaryTable& table,
                  RotaryForm form = RotaryForm::half, int64_t passed = 0);
// The transposed rotation of dy.
at::Tensor rotary_backward(const at::Tensor& dy, const at::Tensor& positions,
                           const RotaryTable& table, RotaryForm form = RotaryForm::half,
                           int64_t passed = 0);

}  // namespace conclave::ops
