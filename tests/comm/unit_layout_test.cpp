#include "comm/unit_layout.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

namespace conclave::comm {
namespace {

UnitLayout three_pieces() {
  return {"layers.0.dense",
          {{"norm", {100}, {0, 100}}, {"q", {30, 10}, {256, 556}}, {"k", {7, 9}, {768, 831}}},
          831};
}

TEST(UnitLayout, PadsToAMultipleOfAlignedShards) {
  const UnitLayout u = three_pieces();
  EXPECT_EQ(u.padded(1), 1024);
  EXPECT_EQ(u.padded(2), 1024);
  EXPECT_EQ(u.padded(3), 1536);
  EXPECT_EQ(u.padded(8), 2048);
  EXPECT_EQ((UnitLayout{"empty", {}, 0}.padded(4)), 0);
  EXPECT_THROW(u.padded(0), c10::Error);
}

TEST(UnitLayout, ShardsTileTheBuffer) {
  const UnitLayout u = three_pieces();
  for (int shards : {1, 2, 3, 4, 7}) {
    int64_t end = 0;
    for (int rank = 0; rank < shards; ++rank) {
      const Interval s = u.shard(rank, shards);
      EXPECT_EQ(s.begin, end);
      EXPECT_EQ(s.begin % kUnitAlign, 0);
      end = s.end;
    }
    EXPECT_EQ(end, u.padded(shards));
  }
  EXPECT_THROW(u.shard(2, 2), c10::Error);
  EXPECT_THROW(u.shard(-1, 2), c10::Error);
}

TEST(UnitLayout, PiecesInARangeAreTheirCuts) {
  const UnitLayout u = three_pieces();
  const auto cut = u.pieces_in({50, 300});
  ASSERT_EQ(cut.size(), 2u);
  EXPECT_EQ(cut[0].first, 0);
  EXPECT_EQ(cut[0].second.begin, 50);
  EXPECT_EQ(cut[0].second.end, 100);
  EXPECT_EQ(cut[1].first, 1);
  EXPECT_EQ(cut[1].second.begin, 256);
  EXPECT_EQ(cut[1].second.end, 300);
  EXPECT_TRUE(u.pieces_in({100, 256}).empty());  // alignment
  EXPECT_TRUE(u.pieces_in({831, 1024}).empty());
  EXPECT_TRUE(u.pieces_in({300, 300}).empty());
}

TEST(UnitLayout, EveryElementOfAPieceIsInExactlyOneShard) {
  const UnitLayout u = three_pieces();
  for (int shards : {1, 2, 3, 4, 5}) {
    std::vector<int64_t> seen(u.pieces.size(), 0);
    for (int rank = 0; rank < shards; ++rank)
      for (const auto& [piece, at] : u.pieces_in(u.shard(rank, shards)))
        seen[static_cast<size_t>(piece)] += at.size();
    for (size_t p = 0; p < u.pieces.size(); ++p) EXPECT_EQ(seen[p], u.pieces[p].at.size());
  }
}

}  // namespace
}  // namespace conclave::comm
