#include <ATen/Context.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include "recipes/gpu_tracer.h"

namespace conclave::recipes {
namespace {

TEST(GpuTracerCuda, CountsWorkToThePartThatLaunchedIt) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  const auto gpu = at::TensorOptions().device(at::kCUDA);
  const at::Tensor a = at::ones({2048, 2048}, gpu);
  at::Tensor to = at::ones({2048, 2048}, gpu);
  at::mm(a, a);  // libraries set themselves up
  for (int again = 0; again < 2; ++again) {
    GpuTracer tracer;
    {
      Part part("products");
      at::mm(a, a);
      Part inner("copies");
      to.copy_(a);
    }
    at::mm(a, a);
    EXPECT_EQ(to.sum().item().toDouble(), 2048.0 * 2048.0);  // waits
    const Timeline t = tracer.finish();
    const TimeByPart by = time_by_part(t);
    ASSERT_TRUE(by.busy.contains("products") && by.busy.contains("copies") && by.busy.contains(""));
    EXPECT_GT(by.busy.at("products"), by.busy.at("copies"));
    EXPECT_NEAR(by.sum(), t.seconds, 1e-9);
    EXPECT_GT(by.idle, 0);
    ASSERT_FALSE(t.waits.empty());
    for (const auto& [call, n] : t.waits) EXPECT_EQ(n, 1) << call;
    EXPECT_EQ(Part::current(), nullptr);
  }
}

}  // namespace
}  // namespace conclave::recipes
