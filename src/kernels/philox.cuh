// The counter-based random numbers of base/random.h on the device, bit for bit. Source:
// Philox4x32-10, Salmon et al., SC 2011.
#pragma once
#include "kernels/pack.cuh"

namespace conclave::kernels {

// base/random.h's philox, block `pair` of a stream: words 0 and 1 as one number, 2 and 3 as
// another.
CONCLAVE_DEVICE void philox(uint64_t key, uint64_t pair, uint64_t stream, uint64_t& first,
                            uint64_t& second) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(pair), c1 = static_cast<uint32_t>(pair >> 32),
           c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  first = c0 | uint64_t{c1} << 32;
  second = c2 | uint64_t{c3} << 32;
}

}  // namespace conclave::kernels
