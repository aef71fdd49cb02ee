#include "ops/simd.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace conclave::ops {
namespace {

TEST(Simd, ExpIsGoodToAnUlp) {
  double worst = 0;
  for (float x = -103; x < 88.7f; x += 0.0007f) {
    const double exact = std::exp(double(x)),
                 ulp = std::ldexp(1.0, std::max(std::ilogb(exact) - 23, -149));
    worst = std::max(worst, std::abs(double(exp(broadcast(x))[0]) - exact) / ulp);
  }
  EXPECT_LE(worst, 1.1);
  const float inf = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(exp(broadcast(0.f))[0], 1.f);
  EXPECT_EQ(exp(broadcast(-inf))[0], 0.f);
  EXPECT_EQ(exp(broadcast(90.f))[0], inf);
  EXPECT_TRUE(std::isnan(exp(broadcast(nan))[0]));
}

TEST(Simd, RoundsToBf16AsItsConstructorDoes) {
  std::vector<float> values = {0.f,
                               -0.f,
                               1.f,
                               std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::quiet_NaN(),
                               3.4e38f,
                               1e-40f};
  for (uint32_t bits = 0x3f7f0000; bits < 0x3f820000; bits += 0x101)
    values.push_back(std::bit_cast<float>(bits));
  for (uint32_t bits : {0x3f808000u, 0x3f818000u, 0xbf808000u})
    values.push_back(std::bit_cast<float>(bits));  // ties
  for (float v : values) {
    c10::BFloat16 stored[kLanes<float>];
    store(stored, broadcast(v));
    EXPECT_EQ(stored[0].x, c10::BFloat16(v).x) << v;
  }
}

template <class S>
void expect_pairs() {
  for (int64_t n : {0, 1, 3, 7, 8, 16, 17, 40}) {
    std::vector<S> x(2 * n), y(2 * n + 1, S(-1));
    for (int64_t i = 0; i < 2 * n; ++i) x[i] = S(float(i));
    sweep<acc_t<S>>(n, [&](int64_t i, auto lanes) {
      const auto [first, second] = load_pairs(x.data() + 2 * i, lanes);
      for (int j = 0; j < kLanes<acc_t<S>> && i + j < n; ++j) {
        EXPECT_EQ(first[j], acc_t<S>(2 * (i + j)));
        EXPECT_EQ(second[j], acc_t<S>(2 * (i + j) + 1));
      }
      store_pairs(y.data() + 2 * i, first, second, lanes);
    });
    for (int64_t i = 0; i < 2 * n; ++i) EXPECT_EQ(y[i], x[i]);
    EXPECT_EQ(y[2 * n], S(-1));
  }
}

TEST(Simd, PairsAreTakenApartAndPutTogether) {
  expect_pairs<float>();
  expect_pairs<double>();
  expect_pairs<c10::BFloat16>();
}

TEST(Simd, SweepAndSumSeeEveryElementOnce) {
  for (int64_t n : {0, 1, 7, 16, 17, 63, 64, 65, 200}) {
    std::vector<float> x(n), y(n + 1, -1.f);
    for (int64_t i = 0; i < n; ++i) x[i] = float(i + 1);
    sweep<float>(n, [&](int64_t i, auto lanes) {
      store(y.data() + i, load(x.data() + i, lanes) * 2.f, lanes);
    });
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(y[i], 2 * x[i]);
    EXPECT_EQ(y[n], -1.f);
    EXPECT_EQ(sum_over<float>(n, [&](int64_t i, auto lanes) { return load(x.data() + i, lanes); }),
              float(n * (n + 1) / 2));
  }
}

}  // namespace
}  // namespace conclave::ops
