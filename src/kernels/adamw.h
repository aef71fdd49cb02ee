// AdamW over flat shards, with the update's scalars from the host or from the device.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

// Of one step, computed in fp64 and rounded once to what the update computes in.
//   g ← g · grad_scale; w ← w · keep where decay applies; m ← m + rest1 · (g − m);
//   v ← v · beta2 + rest2 · g²; w ← w + minus_size · m / (√v / root_bc2 + eps)
// The update is left out, nothing written, while grad_scale is not finite.
struct AdamWScalars {
  double keep, rest1, beta2, rest2, root_bc2, eps, minus_size, grad_scale;
};

struct AdamWRule {
  double beta1, beta2, eps, weight_decay;
};
// out ← the scalars of update *steps + 1 with learning rate *lr and grad_scale *scale, all on the
// device; *steps is raised by one unless *scale is not finite.
void adamw_scalars(AdamWScalars* out, int64_t* steps, const double* lr, const double* scale,
                   const AdamWRule& rule, cudaStream_t stream);

// *scale ← min(1, clip / (√*squared_sum + 1e-6)), 1 for clip ≤ 0; NaN if √*squared_sum or *loss
// (null: none) is not finite. On the device.
void clip_scale(double* scale, const double* squared_sum, const double* loss, double clip,
                cudaStream_t stream);

// Where decay applies: ascending [begin, end) pairs on the host, read before the call returns.
struct DecayRanges {
  const int64_t* borders;
  int64_t count;  // numbers, even
};

// w [n]: float, double, or bf16 (rounded to nearest after the update); with lo [n] defined, bf16
// that is the upper half of an fp32 master, bits(master) = (bits(w) << 16) + lo. m, v [n] of type
// M, g [n] of type G. `on_device` null: `scalars` are used. Bytes: each read and written once, g
// read.
template <class W, class M, class G>
struct AdamWArgs {
  W* w;
  int16_t* lo;
  M *m, *v;
  const G* g;
  int64_t n;
  DecayRanges decay;
  AdamWScalars scalars;
  const AdamWScalars* on_device;
};
template <class W, class M, class G>
void adamw(const AdamWArgs<W, M, G>& a, cudaStream_t stream);

// lo and hi of an fp32 master, and back; hi is rounded half up in magnitude.
void split_master(bf16* hi, int16_t* lo, const float* master, int64_t n, cudaStream_t stream);
void join_master(float* master, const bf16* hi, const int16_t* lo, int64_t n, cudaStream_t stream);

}  // namespace conclave::kernels
