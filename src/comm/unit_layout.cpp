#include "comm/unit_layout.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace conclave::comm {

int64_t UnitLayout::padded(int shards) const {
  TORCH_CHECK(shards >= 1, "unit ", name, ": expected at least 1 shard, got ", shards);
  const int64_t step = shards * kUnitAlign;
  return (numel + step - 1) / step * step;
}

Interval UnitLayout::shard(int rank, int shards) const {
  TORCH_CHECK(0 <= rank && rank < shards, "unit ", name, ": expected a rank in 0 … ", shards - 1,
              ", got ", rank);
  const int64_t size = padded(shards) / shards;
  return {rank * size, (rank + 1) * size};
}

std::vector<std::pair<int, Interval>> UnitLayout::pieces_in(Interval range) const {
  std::vector<std::pair<int, Interval>> parts;
  // Pieces ascend and do not overlap, so their ends ascend too: the first that can reach into the
  // range is the first that ends beyond its begin.
  auto piece = std::partition_point(pieces.begin(), pieces.end(),
                                    [&](const Piece& p) { return p.at.end <= range.begin; });
  for (; piece != pieces.end() && piece->at.begin < range.end; ++piece) {
    const Interval part{std::max(piece->at.begin, range.begin), std::min(piece->at.end, range.end)};
    if (part.size() > 0) parts.emplace_back(static_cast<int>(piece - pieces.begin()), part);
  }
  return parts;
}

}  // namespace conclave::comm
