#include "data/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace conclave::data {
namespace {

using testing::ElementsAre;

// Documents of the given lengths; every token of all of them is another number.
std::shared_ptr<const TokenizedText> numbered(const std::vector<int64_t>& lengths) {
  auto text = std::make_shared<TokenizedText>();
  for (int64_t length : lengths) {
    for (int64_t i = 0; i < length; ++i)
      text->ids.push_back(static_cast<int32_t>(text->ids.size()));
    text->doc_offsets.push_back(text->tokens());
  }
  return text;
}

std::vector<int64_t> random_lengths(uint64_t seed) {
  std::vector<int64_t> lengths;
  for (uint64_t i = 0; i < 40; ++i)
    lengths.push_back(1 + static_cast<int64_t>(below(i % 5 == 0 ? 60 : 9, seed, 0, i)));
  return lengths;
}

TEST(PackedDataset, OneRowAsWritten) {
  PackedDataset data(numbered({3, 6, 1}), 4, std::nullopt);
  ASSERT_EQ(data.rows(), 3);
  PackedRow first = data.row(0), second = data.row(1), last = data.row(2);
  EXPECT_THAT(first.ids, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(first.labels, ElementsAre(1, 2, kIgnoreLabel, 4));  // 4 is the first of the next row
  EXPECT_THAT(first.positions, ElementsAre(0, 1, 2, 0));
  EXPECT_THAT(first.doc_starts, ElementsAre(0, 3));
  EXPECT_THAT(second.labels, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(second.positions, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(last.ids, ElementsAre(8, 9));
  EXPECT_THAT(last.labels, ElementsAre(kIgnoreLabel, kIgnoreLabel));
  EXPECT_THAT(last.positions, ElementsAre(0, 0));
  EXPECT_THAT(last.doc_starts, ElementsAre(0, 1));
  EXPECT_EQ(data.scored(0), 3);
  EXPECT_EQ(data.scored(2), 0);
  EXPECT_EQ(data.scored(), 7);
}

// Trap 11: padding that is routed or counted. There is none: rows hold each token of the text once
// and no other.
TEST(PackedDataset, Trap11PaddingThatIsRoutedOrCounted) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    auto text = numbered(random_lengths(seed));
    std::vector<int64_t> doc_of(text->tokens());
    for (int64_t d = 0; d < text->docs(); ++d)
      for (int32_t id : text->doc(d)) doc_of[id] = d;
    const auto seq_len = static_cast<int64_t>(1 + seed);
    PackedDataset data(text, seq_len, seed % 2 ? std::optional(seed) : std::nullopt);
    std::set<int64_t> seen, scored;
    for (int64_t r = 0; r < data.rows(); ++r) {
      PackedRow row = data.row(r);
      const int64_t tokens = std::min(seq_len, text->tokens() - r * seq_len);
      ASSERT_EQ(static_cast<int64_t>(row.ids.size()), tokens);
      ASSERT_EQ(row.doc_starts.front(), 0);
      const std::set<int64_t> starts(row.doc_starts.begin(), row.doc_starts.end());
      ASSERT_EQ(starts.size(), row.doc_starts.size());
      int64_t labels = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t id = row.ids[t], label = row.labels[t];
        ASSERT_EQ(row.positions[t], t - *std::prev(starts.upper_bound(t)));
        labels += label != kIgnoreLabel;
        ASSERT_TRUE(seen.insert(id).second);
        if (t > 0) {
          ASSERT_EQ(starts.contains(t), doc_of[id] != doc_of[row.ids[t - 1]]);
        }
        const bool more = id + 1 < text->tokens() && doc_of[id + 1] == doc_of[id];
        ASSERT_EQ(label, more ? id + 1 : kIgnoreLabel);
        if (more) {
          ASSERT_TRUE(scored.insert(label).second);
        }
      }
      ASSERT_EQ(data.scored(r), labels);
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), text->tokens());
    EXPECT_EQ(static_cast<int64_t>(scored.size()), text->tokens() - text->docs());
    EXPECT_EQ(data.scored(), text->tokens() - text->docs());
  }
}

TEST(PackedDataset, JoinedDocumentsAreOnePieceARow) {
  const auto text = numbered({3, 0, 6, 1});
  PackedDataset data(text, 4, std::nullopt, Documents::joined);
  const std::vector<int64_t> all = [&] {
    std::vector<int64_t> ids;
    for (int64_t d = 0; d < text->docs(); ++d)
      for (int32_t id : text->doc(d)) ids.push_back(id);
    return ids;
  }();
  ASSERT_EQ(data.rows(), 2);  // two tokens are left out
  for (int64_t r = 0; r < 2; ++r) {
    const PackedRow row = data.row(r);
    EXPECT_EQ(row.doc_starts, std::vector<int64_t>{0});
    EXPECT_EQ(row.positions, (std::vector<int64_t>{0, 1, 2, 3}));
    EXPECT_EQ(row.ids, std::vector<int64_t>(all.begin() + 4 * r, all.begin() + 4 * r + 4));
    EXPECT_EQ(row.labels, std::vector<int64_t>(all.begin() + 4 * r + 1, all.begin() + 4 * r + 5));
    EXPECT_EQ(data.scored(r), 4);
  }
  EXPECT_EQ(data.scored(), 8);
  const PackedDataset one(text, 16, std::nullopt, Documents::joined);  // the only row may be short
  ASSERT_EQ(one.rows(), 1);
  EXPECT_EQ(one.row(0).ids, all);
  EXPECT_EQ(one.row(0).labels.back(), kIgnoreLabel);
  EXPECT_EQ(one.scored(), 9);
}

TEST(PackedDataset, TheSeedShuffles) {
  auto text = numbered(random_lengths(1));
  auto ids = [&](std::optional<uint64_t> seed) { return PackedDataset(text, 8, seed).row(0).ids; };
  EXPECT_EQ(ids(1), ids(1));
  EXPECT_NE(ids(1), ids(2));
  EXPECT_THAT(ids(std::nullopt), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(PackedDataset, BatchJoinsRows) {
  PackedDataset data(numbered({3, 6, 1}), 4, std::nullopt);
  PackedBatch batch = data.batch(std::vector<int64_t>{2, 0});
  EXPECT_THAT(batch.ids, ElementsAre(8, 9, 0, 1, 2, 3));
  EXPECT_THAT(batch.doc_offsets, ElementsAre(0, 1, 2, 5, 6));
  EXPECT_THAT(batch.row_offsets, ElementsAre(0, 2, 6));
  EXPECT_EQ(batch.labels.size(), 6u);
  EXPECT_EQ(batch.positions.size(), 6u);
  EXPECT_EQ(batch.scored, 3);
}

TEST(Sampler, EveryEpochIsAnotherOrderOfAllRows) {
  Sampler sampler(50, 7);
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    auto rows = sampler.rows(epoch * 50, 50);
    orders.insert(rows);
    EXPECT_EQ(std::set<int64_t>(rows.begin(), rows.end()).size(), 50u);
    EXPECT_EQ(sampler.epoch(epoch * 50 + 49), epoch);
  }
  EXPECT_EQ(orders.size(), 5u);
}

TEST(Sampler, GoesOnFromOneNumber) {
  Sampler whole(17, 3);
  const auto all = whole.rows(0, 100);
  for (int64_t at : {0, 1, 16, 17, 40, 99}) {
    Sampler resumed(17, 3);
    EXPECT_EQ(resumed.rows(at, 100 - at), std::vector<int64_t>(all.begin() + at, all.end()));
  }
  EXPECT_NE(Sampler(17, 4).rows(0, 100), all);
}

}  // namespace
}  // namespace conclave::data
