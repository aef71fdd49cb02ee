#include "data/bigram.h"

#include <gtest/gtest.h>

#include <cmath>

namespace conclave::data {
namespace {

std::shared_ptr<const TokenizedText> text_of(const std::vector<std::vector<int32_t>>& docs) {
  auto text = std::make_shared<TokenizedText>();
  for (const auto& doc : docs) {
    text->ids.insert(text->ids.end(), doc.begin(), doc.end());
    text->doc_offsets.push_back(text->tokens());
    text->bytes += 2 * doc.size();
  }
  return text;
}

// Of five tokens 4 never occurs; 3 ends a document, so nothing follows it.
TEST(Bigram, ValuesByHand) {
  Bigram model(*text_of({{0, 1, 0, 1, 2, 3}, {0, 2, 3}}), 5);
  const double spread = 0.75 * 4 / 9 / 5;  // what the discount of the four kinds gives each token
  const double p0 = 2.25 / 9 + spread, p1 = 1.25 / 9 + spread, p4 = spread;
  EXPECT_DOUBLE_EQ(model.probability(3, 0), p0);
  EXPECT_DOUBLE_EQ(model.probability(4, 4), p4);
  EXPECT_DOUBLE_EQ(model.probability(0, 1), 1.25 / 3 + 0.75 * 2 / 3 * p1);
  EXPECT_DOUBLE_EQ(model.probability(0, 4), 0.75 * 2 / 3 * p4);
  EXPECT_DOUBLE_EQ(model.probability(2, 3), 1.25 / 2 + 0.75 * 1 / 2 * (1.25 / 9 + spread));
}

TEST(Bigram, ProbabilitiesSumToOne) {
  Bigram model(*text_of({{0, 1, 0, 1, 2, 3}, {0, 2, 3}, {5, 5, 5, 5, 3}}), 7);
  for (int64_t v = 0; v < 7; ++v) {
    double sum = 0;
    for (int64_t w = 0; w < 7; ++w) {
      EXPECT_GT(model.probability(v, w), 0);
      sum += model.probability(v, w);
    }
    EXPECT_NEAR(sum, 1, 1e-12);
  }
}

TEST(Bigram, ScoresThePositionsThatHaveALabel) {
  auto train = text_of({{0, 1, 0, 1, 2, 3}, {0, 2, 3}});
  auto held = text_of({{0, 1, 3}, {2, 0, 3}});
  Bigram model(*train, 5);
  double sum = 0;
  for (auto [v, w] : {std::pair{0, 1}, {1, 3}, {2, 0}, {0, 3}})
    sum -= std::log(model.probability(v, w));
  for (int64_t seq_len : {1, 2, 4, 100}) {
    PackedDataset rows(held, seq_len, std::nullopt);
    EXPECT_NEAR(model.nats_per_token(rows), sum / 4, 1e-12);
    EXPECT_NEAR(bits_per_byte(sum / 4, rows), sum / std::log(2.0) / 12, 1e-12);
  }
}

}  // namespace
}  // namespace conclave::data
