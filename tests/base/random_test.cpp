#include "base/random.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace conclave {
namespace {

using Block = std::array<uint32_t, 4>;

// Known answers of Random123 (kat_vectors, philox4x32 10).
TEST(Philox, EqualsRandom123) {
  EXPECT_EQ(philox(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(HashName, IsFnv1a) {
  static_assert(hash_name("") == 0xcbf29ce484222325);
  EXPECT_EQ(hash_name("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(hash_name("foobar"), 0x85944171f73967e8u);
}

TEST(Uniform, LiesInZeroToOneAndSpreads) {
  double sum = 0, low = 1, high = 0;
  constexpr int kCount = 20000;
  for (int i = 0; i < kCount; ++i) {
    double u = uniform(1, 2, static_cast<uint64_t>(i));
    sum += u;
    low = std::min(low, u);
    high = std::max(high, u);
  }
  EXPECT_GE(low, 0);
  EXPECT_LT(high, 1);
  EXPECT_LT(low, 0.001);
  EXPECT_GT(high, 0.999);
  EXPECT_NEAR(sum / kCount, 0.5, 0.01);
  EXPECT_NE(uniform(1, 2, 3), uniform(1, 3, 2));
}

TEST(Below, IsInRangeAndEven) {
  std::array<int, 7> seen{};
  for (uint64_t i = 0; i < 70000; ++i) ++seen[below(7, 5, 0, i)];
  for (int count : seen) EXPECT_NEAR(count, 10000, 400);
  EXPECT_EQ(below(1, 5, 0, 0), 0u);
  EXPECT_LT(below(~0ull, 5, 0, 0), ~0ull);
}

TEST(FillNormal, AnyIntervalIsThatPartOfTheWhole) {
  constexpr uint64_t kCount = 10001;
  std::vector<double> whole(kCount);
  fill_normal(whole.data(), 1, hash_name("w"), 0, kCount, 2.0);
  for (auto [begin, end] : {std::pair<uint64_t, uint64_t>{0, 0},
                            {0, 1},
                            {1, 2},
                            {7, 5000},
                            {8, 9001},
                            {10000, 10001},
                            {3, 10001}}) {
    std::vector<double> part(end - begin + 1, -99);
    fill_normal(part.data(), 1, hash_name("w"), begin, end - begin, 2.0);
    EXPECT_TRUE(
        std::equal(part.begin(), part.end() - 1, whole.begin() + static_cast<int64_t>(begin)));
    EXPECT_EQ(part.back(), -99);
    std::vector<float> narrow(end - begin);
    fill_normal(narrow.data(), 1, hash_name("w"), begin, end - begin, 2.0);
    for (size_t i = 0; i < narrow.size(); ++i) EXPECT_EQ(narrow[i], static_cast<float>(part[i]));
  }
}

TEST(FillNormal, HasTheSameBitsForAnyNumberOfThreads) {
  constexpr uint64_t kCount = 50001;
  int threads = omp_get_max_threads();
  std::vector<float> one(kCount), many(kCount);
  omp_set_num_threads(1);
  fill_normal(one.data(), 3, 4, 5, kCount, 0.02);
  for (int n : {2, 4}) {
    omp_set_num_threads(n);
    fill_normal(many.data(), 3, 4, 5, kCount, 0.02);
    EXPECT_EQ(std::memcmp(one.data(), many.data(), kCount * sizeof(float)), 0) << n;
  }
  omp_set_num_threads(threads);
}

TEST(FillNormal, HasTheMomentsOfANormal) {
  constexpr int kCount = 200000;
  std::vector<double> x(kCount);
  fill_normal(x.data(), 11, 12, 0, kCount, 1.0);
  double m1 = 0, m2 = 0, m4 = 0, neighbours = 0;
  for (int i = 0; i < kCount; ++i) {
    m1 += x[i];
    m2 += x[i] * x[i];
    m4 += std::pow(x[i], 4);
    if (i > 0) neighbours += x[i] * x[i - 1];
  }
  EXPECT_NEAR(m1 / kCount, 0, 0.01);
  EXPECT_NEAR(m2 / kCount, 1, 0.01);
  EXPECT_NEAR(m4 / kCount, 3, 0.06);
  EXPECT_NEAR(neighbours / kCount, 0, 0.01);
  EXPECT_GT(*std::max_element(x.begin(), x.end()), 4);
}

TEST(Permutation, IsABijectionThatChangesWithSeedAndEpoch) {
  for (uint64_t n : {0, 1, 2, 1000}) {
    Permutation order(n, 1, 2);
    EXPECT_EQ(order.size(), n);
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; ++i) seen.at(order[i]) = true;
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), static_cast<int64_t>(n));
  }
  Permutation a(1000, 1, 2), again(1000, 1, 2), epoch(1000, 1, 3), seed(1000, 2, 2);
  int same_epoch = 0, same_seed = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(a[i], again[i]);
    same_epoch += a[i] == epoch[i];
    same_seed += a[i] == seed[i];
  }
  EXPECT_LT(same_epoch, 10);
  EXPECT_LT(same_seed, 10);
}

}  // namespace
}  // namespace conclave
