// Generation reads a document piece by piece with a cache; the logits are those of the whole at
// once.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "parallel/tiny.h"

namespace conclave::parallel {
namespace {
using namespace testing;

constexpr int64_t kTokens = 15;

nlohmann::json changed(nlohmann::json config, const nlohmann::json& more) {
  config.update(more);
  return config;
}

// The logits of the tokens begin … end−1, [end − begin, vocab].
at::Tensor read(Tiny& tiny, int64_t begin, int64_t end, nn::KvCache* cache) {
  Batch b;
  b.ids = at::arange(begin, end, at::kLong).mul(7).add(3).remainder(kVocab);
  b.rows.positions = at::arange(begin, end, at::kLong);
  b.rows.doc_offsets = b.rows.row_offsets = {0, end - begin};
  b.rows.cache = cache;
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, std::move(b), {.training = false});
  micro.forward();
  return micro.logits(at::arange(end - begin, at::kLong));
}

void expect_cached_equals_whole(const nlohmann::json& config) {
  Tiny tiny({.training = false}, config);
  const at::Tensor whole = read(tiny, 0, kTokens, nullptr);
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {0, 1, 2, 9, 15}}) {
    nn::KvCache cache(tiny.decoder.layers.size());
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i + 1 < cuts.size(); ++i)
      parts.push_back(read(tiny, cuts[i], cuts[i + 1], &cache));
    EXPECT_LT(largest(at::cat(parts).sub(whole)), 1e-13 * largest(whole));
  }
}

TEST(Generation, Qwen3Moe) { expect_cached_equals_whole(tiny_config()); }

TEST(Generation, GptOss) {  // windows shorter than a piece, and shorter than what the cache holds
  for (int64_t window : {1, 3, 5})
    expect_cached_equals_whole(changed(tiny_gpt_oss(), {{"sliding_window", window}}));
}

TEST(Generation, DeepseekV3) {  // the cache holds latents
  expect_cached_equals_whole(tiny_deepseek());
  expect_cached_equals_whole(
      changed(tiny_deepseek(), {{"q_lora_rank", nullptr}, {"rope_scaling", nullptr}}));
}

}  // namespace
}  // namespace conclave::parallel
