#include "base/random.h"

#include <cmath>
#include <numbers>
#include <utility>

namespace conclave {
namespace {

uint64_t word(const std::array<uint32_t, 4>& block, int half) {
  return block[2 * half] | uint64_t{block[2 * half + 1]} << 32;
}

double unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

// Elements 2·pair and 2·pair + 1. The logarithm is of a number in (0, 1].
std::pair<double, double> normal_pair(uint64_t seed, uint64_t stream, uint64_t pair) {
  std::array<uint32_t, 4> block = philox(seed, pair, stream);
  double radius = std::sqrt(-2 * std::log(1 - unit(word(block, 0))));
  double angle = 2 * std::numbers::pi * unit(word(block, 1));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

template <class T>
void fill(T* out, uint64_t seed, uint64_t stream, uint64_t begin, uint64_t count, double stddev) {
  if (count == 0) return;
  uint64_t end = begin + count;
#pragma omp parallel for schedule(static) if (count >= 4096)
  for (uint64_t pair = begin / 2; pair < (end + 1) / 2; ++pair) {
    auto [even, odd] = normal_pair(seed, stream, pair);
    if (2 * pair >= begin) out[2 * pair - begin] = static_cast<T>(stddev * even);
    if (2 * pair + 1 < end) out[2 * pair + 1 - begin] = static_cast<T>(stddev * odd);
  }
}

template <class T>
std::vector<T> shuffled(uint64_t n, uint64_t seed, uint64_t epoch) {
  std::vector<T> order(n);
  for (uint64_t i = 0; i < n; ++i) order[i] = static_cast<T>(i);
  uint64_t stream = hash_name("permutation") + epoch;
  for (uint64_t i = n; i > 1; --i)
    std::swap(order[i - 1], order[below(i, seed, stream, i)]);  // Fisher–Yates
  return order;
}

}  // namespace

uint64_t bits64(uint64_t seed, uint64_t stream, uint64_t index) {
  return word(philox(seed, index, stream), 0);
}

double uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return unit(bits64(seed, stream, index));
}

uint64_t below(uint64_t n, uint64_t seed, uint64_t stream, uint64_t index) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(bits64(seed, stream, index)) * n >>
                               64);
}

void fill_normal(float* out, uint64_t seed, uint64_t stream, uint64_t begin, uint64_t count,
                 double stddev) {
  fill(out, seed, stream, begin, count, stddev);
}

void fill_normal(double* out, uint64_t seed, uint64_t stream, uint64_t begin, uint64_t count,
                 double stddev) {
  fill(out, seed, stream, begin, count, stddev);
}

Permutation::Permutation(uint64_t n, uint64_t seed, uint64_t epoch) {
  if (n >> 32 == 0)
    narrow_ = shuffled<uint32_t>(n, seed, epoch);
  else
    wide_ = shuffled<uint64_t>(n, seed, epoch);
}

}  // namespace conclave
