// Where each checkpoint tensor lies in a unit's flat buffer. A unit is one aligned buffer a (layer,
// mesh, dtype); a piece is a (name, interval); a shard is one of `shards` equal contiguous ranges,
// so a piece's part in a shard is a contiguous byte range of its safetensors tensor, unless the
// file holds it transposed.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace conclave::comm {

constexpr int64_t kUnitAlign =
    256;  // elements; weights start on multiples of it, and the padded size is one a shard

struct Interval {
  int64_t begin = 0, end = 0;  // elements of the unit's flat buffer
  int64_t size() const { return end - begin; }
};

struct Piece {       // one tensor of the checkpoint
  std::string name;  // its full key there, e.g. model.layers.0.mlp.experts.3.gate_proj.weight
  std::vector<int64_t> shape;  // its shape here: row-major, whole
  Interval at;                 // where it lies, or the part of it that an expert rank holds
  int64_t first = 0;           // which of its elements, row-major, lies at at.begin
  bool transposed = false;     // the checkpoint holds it with the last two dims swapped
};

struct StoredTensor {  // of the checkpoint
  std::string name;
  std::vector<int64_t> shape;  // here
  bool transposed = false;
};

struct UnitLayout {
  std::string name;           // e.g. layers.0.experts
  std::vector<Piece> pieces;  // ascending, not overlapping; gaps are alignment
  int64_t numel = 0;          // end of the last weight
  // All tensors of the unit's weights, those too of which other expert ranks hold all; the same on
  // every rank.
  std::vector<StoredTensor> tensors;

  // Size of the flat buffer when cut for `shards` ranks: a multiple of shards · kUnitAlign.
  int64_t padded(int shards) const;
  // The range that `rank` of `shards` holds.
  Interval shard(int rank, int shards) const;
  // The parts of pieces that lie in `range`: (index of the piece, interval in the flat buffer).
  std::vector<std::pair<int, Interval>> pieces_in(Interval range) const;
};

}  // namespace conclave::comm
