// The shipped benchmark configs: what a rank of each holds, at full size and on the CPU.
#include "recipes/rank_share.h"

#include <gtest/gtest.h>

#include "recipes/shape.h"

namespace conclave::recipes {
namespace {

struct Expected {
  const char* name;
  int64_t held, experts;
  bool ends;
};
constexpr int64_t kFree = int64_t{16} << 30;
const Expected kShipped[] = {{"qwen3_moe_30b", 48, 16, true},
                             {"gptoss_20b", 24, 4, true},
                             {"gptoss_120b", 36, 2, true},
                             {"deepseek_v3", 16, 4, false},
                             {"kimi_k2", 8, 12, false}};

Config<BenchmarkConfig> read(const Expected& e, const std::vector<std::string>& sets = {}) {
  return read_config<BenchmarkConfig>(std::string("configs/benchmark/") + e.name + ".yaml", sets,
                                      "benchmark");
}

int64_t weights_of(const nn::Decoder& decoder) {
  int64_t n = 0;
  for (const auto& unit : decoder.units)
    for (const auto& w : unit->weights()) n += unit->trained() ? w->numel() : 0;
  return n;
}

// Tests run in the root of the sources.
TEST(RankShare, OfTheShippedConfigs) {
  for (const Expected& e : kShipped)
    for (const bool for_cpu : {false, true}) {
      SCOPED_TRACE(e.name);
      const auto c = read(e);
      const RankShare s =
          rank_share(c.value, c.source, for_cpu ? ShareOf::cpu : ShareOf::full_size, kFree);
      EXPECT_EQ(s.layers_held, e.held);
      EXPECT_EQ(s.share.ends, e.ends);
      EXPECT_LE(s.forecast.total(), s.limit);
      const auto layers = static_cast<int64_t>(s.shape.layers.size());
      EXPECT_GE(layers, 1);
      EXPECT_LE(layers, for_cpu ? c.value.cpu.layers : e.held);
      for (const auto& l : s.shape.layers) EXPECT_EQ(l.experts / s.shape.expert_ranks, e.experts);
      EXPECT_EQ(s.smaller.empty(), !for_cpu);
      const nn::Decoder decoder = make_decoder(s);
      EXPECT_EQ(weights_of(decoder), plan::parameters(s.shape).total);
      EXPECT_EQ(plan::flops_per_token(shape_of(decoder), s.seq_len).total(),
                plan::flops_per_token(s.shape, s.seq_len).total());
    }
}

TEST(RankShare, FewerLayersWhereTheLimitIsSmaller) {
  const auto c = read(kShipped[3], {"memory_limit=40 GiB"});
  const RankShare s = rank_share(c.value, c.source, ShareOf::full_size, kFree);
  EXPECT_LT(s.shape.layers.size(), 16u);
  EXPECT_LE(s.forecast.total(), int64_t{40} << 30);
  const auto more = read(kShipped[3], {"memory_limit=40 GiB", "layers=16"});
  EXPECT_THROW(rank_share(more.value, more.source, ShareOf::full_size, kFree), ConfigError);
  const std::vector<std::vector<std::string>> impossible{
      {"layout.gpus=5", "layout.ep=5", "layout.dp_shard=5"},
      {"layout.gpus=64", "layout.pp=64", "layout.ep=1", "layout.dp_shard=1"},
      {"memory_limit=72"}};
  for (const auto& sets : impossible)
    for (const ShareOf size : {ShareOf::cpu, ShareOf::full_size}) {
      SCOPED_TRACE(sets.back());
      const auto bad = read(kShipped[0], sets);
      EXPECT_THROW(rank_share(bad.value, bad.source, size, kFree), ConfigError);
    }
}

}  // namespace
}  // namespace conclave::recipes
