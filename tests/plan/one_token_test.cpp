#include "plan/one_token.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "plan/cases.h"

namespace conclave::plan {
namespace {

const TokenRun kRun{
    "configs/pretrain/tiny.yaml", "src/models/qwen3_moe.cpp", 4, 16, 2, int64_t{1} << 22};

// Tests run in the root of the sources.
TEST(OneToken, NamesFilesThatExist) {
  const auto named = files(one_token(tiny(), kRun));
  EXPECT_GT(named.size(), 20u);
  EXPECT_TRUE(std::is_sorted(named.begin(), named.end()));
  EXPECT_EQ(std::adjacent_find(named.begin(), named.end()), named.end());
  for (const std::string& file : named) EXPECT_TRUE(std::filesystem::is_regular_file(file)) << file;
}

TEST(OneToken, SaysTheShapesOfTheRun) {
  const std::string page = one_token_page(tiny(), kRun);
  for (const char* line : {
           "One token through the house: configs/pretrain/tiny.yaml\n",
           "- src/ops/embedding.cpp: looks up each id — x [tokens, hidden] = [64, 24]\n",
           "q [tokens, heads, head_dim] = [64, 4, 6], k [tokens, kv_heads, head_dim] = [64, 2, "
           "6]\n",
           "combine, join (2 of 3 blocks)\n",
           "probs [tokens, experts] = [64, 5]\n",
           "ids, weights [tokens, top_k] = [64, 2]\n",
           "rows [received, hidden] = [128, 24]\n",
           "gate_up [received, 2 · ffn] = [128, 24]\n",
           "feed_forward (1 of 3 blocks)\n",
           "gate_up [tokens, 2 · dense_ffn] = [64, 80]\n",
           "logits [chunk, vocab] = [64, 96]\n",
       })
    EXPECT_NE(page.find(line), std::string::npos) << line << "\n" << page;
  TokenRun small = kRun;
  small.max_logits = 10 * 96;
  EXPECT_NE(one_token_page(tiny(), small).find("[chunk, vocab] = [10, 96]"), std::string::npos);
}

TEST(OneToken, LeavesOutHalvesThatTheModelDoesNotHave) {
  ModelShape m = tiny();
  m.layers.erase(m.layers.begin());
  EXPECT_EQ(one_token_page(m, kRun).find("feed_forward"), std::string::npos);
  m = tiny();
  m.layers.resize(1);
  EXPECT_EQ(one_token_page(m, kRun).find("dispatch"), std::string::npos);
}

}  // namespace
}  // namespace conclave::plan
