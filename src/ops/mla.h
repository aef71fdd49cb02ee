// Keys and values of multi-head latent attention, from what is projected out of the latents.
// Source: arXiv 2405.04434, 2.1.
#pragma once
#include <ATen/core/Tensor.h>

namespace conclave::ops {

struct MlaKeysValues {
  at::Tensor k;  // [keys, heads, nope + rope]: nope elements of a head's own, then k_rope
  at::Tensor v;  // [keys, heads, v_dim]
};
// kv [keys, heads · (nope + v_dim)]: nope elements of each head's key, then its value. k_rope
// [keys, rope], rotated, the same for all heads. Copies only.
MlaKeysValues mla_keys_values(const at::Tensor& kv, const at::Tensor& k_rope, int64_t heads,
                              int64_t v_dim);

struct MlaKeysValuesGrad {
  at::Tensor dkv;      // [keys, heads · (nope + v_dim)]
  at::Tensor dk_rope;  // [keys, rope]: summed over heads in order, in fp32 or wider
};
MlaKeysValuesGrad mla_keys_values_backward(const at::Tensor& dk, const at::Tensor& dv,
                                           int64_t rope);

}  // namespace conclave::ops
