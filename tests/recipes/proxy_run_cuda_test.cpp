#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "recipes/deterministic.h"
#include "recipes/proxy_run.h"

namespace conclave::recipes {
namespace {

std::vector<double> losses(const std::vector<std::string>& more) {
  std::vector<std::string> sets{"batch.rows=4", "batch.micro_rows=2", "cpu.layers=2"};
  sets.insert(sets.end(), more.begin(), more.end());
  const auto c =
      read_config<BenchmarkConfig>("configs/benchmark/qwen3_moe_30b.yaml", sets, "benchmark");
  const RankShare share = rank_share(c.value, c.source, ShareOf::cpu, int64_t{4} << 30);
  ProxyRun run(share, c.value, at::Device(at::kCUDA, 0));
  std::vector<double> losses;
  for (int64_t i = 0; i < 6; ++i) {
    run.step(i);
    losses.push_back(run.loss());
  }
  return losses;
}

TEST(ProxyRunCuda, ARecordedStepGivesTheSameBits) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  use_deterministic_algorithms();
  const std::vector<double> plain = losses({});
  EXPECT_GT(plain.front(), 5);  // nats of random ids
  EXPECT_EQ(losses({"cuda_graph=true"}), plain);
  at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
}

}  // namespace
}  // namespace conclave::recipes
