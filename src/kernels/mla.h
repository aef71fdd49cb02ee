// Latent attention's keys and values, from the product that all heads share a row of: copies alone.
#pragma once
#include "kernels/launch.h"

namespace conclave::kernels {

// All in units of 16 bytes, and all pointers multiples of it.
struct MlaSizes {
  int64_t keys;
  int heads, nope, rope, v_dim;
};
constexpr int kMostMlaPacks = 256;  // nope + rope + v_dim

// kv [keys, heads, nope + v_dim], k_rope [keys, rope] → k [keys, heads, nope + rope], v [keys,
// heads, v_dim]. Bytes: kv, k and v once, k_rope once a key.
void mla_keys_values(void* k, void* v, const void* kv, const void* k_rope, const MlaSizes& s,
                     cudaStream_t stream);
// dk, dv → dkv, without k_rope's part of dk. Bytes: dkv twice.
void mla_keys_values_backward(void* dkv, const void* dk, const void* dv, const MlaSizes& s,
                              cudaStream_t stream);

}  // namespace conclave::kernels
