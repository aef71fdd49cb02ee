// Random numbers that depend only on (seed, stream, index): any part can be made anywhere, in any
// order, with the same bits. The generator is Philox4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011): key = seed, counter = (index, stream).
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace conclave {

// One block of 128 random bits. Word order as in Random123: key = {low, high}, counter = {lo's low,
// lo's high, hi's low, hi's high}.
inline std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_lo, uint64_t counter_hi) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  std::array<uint32_t, 4> c{
      static_cast<uint32_t>(counter_lo), static_cast<uint32_t>(counter_lo >> 32),
      static_cast<uint32_t>(counter_hi), static_cast<uint32_t>(counter_hi >> 32)};
  for (int round = 0; round < 10; ++round) {
    uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// FNV-1a, 64 bits: the stream of a name.
constexpr uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

uint64_t bits64(uint64_t seed, uint64_t stream, uint64_t index);
// In [0, 1), a multiple of 2^-53.
double uniform(uint64_t seed, uint64_t stream, uint64_t index);
// In 0 … n−1, n ≥ 1; each with probability 1/n up to n/2^64.
uint64_t below(uint64_t n, uint64_t seed, uint64_t stream, uint64_t index);

// out[j] = stddev · z(begin + j) for j < count, where z(i) is standard normal and depends on (seed,
// stream, i) only: Box–Muller in fp64, two elements a Philox block; the float is the rounded
// double. Runs on OpenMP's threads.
void fill_normal(float* out, uint64_t seed, uint64_t stream, uint64_t begin, uint64_t count,
                 double stddev);
void fill_normal(double* out, uint64_t seed, uint64_t stream, uint64_t begin, uint64_t count,
                 double stddev);

// A random order of 0 … n−1, another for each (seed, epoch). Holds 4 bytes an element (8 from 2^32
// on).
class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed, uint64_t epoch);
  uint64_t operator[](uint64_t i) const { return wide_.empty() ? narrow_[i] : wide_[i]; }
  uint64_t size() const { return wide_.empty() ? narrow_.size() : wide_.size(); }

 private:
  std::vector<uint32_t> narrow_;
  std::vector<uint64_t> wide_;
};

}  // namespace conclave
