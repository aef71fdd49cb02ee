// Documents to rows of one length: shuffled once by the seed, put one behind the other, cut every
// seq_len tokens. A document may go on in the next row, where it starts anew: positions from 0, no
// attention back.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/random.h"
#include "data/tokenized_text.h"

namespace conclave::data {

constexpr int64_t kIgnoreLabel = -100;  // a position that is not scored

enum class Documents {
  separate,  // each is a piece of its own
  joined,    // a row is one piece: tokens see those of documents before theirs, and the first token
             // of a document is predicted from the one before it
};

struct PackedRow {
  std::vector<int64_t> ids;  // [tokens]: seq_len, fewer in the last row
  // [tokens]: the token that follows in the same document, also where that one is the first of the
  // next row; so each token but a document's first (joined: the stream's) is scored in exactly one
  // row. kIgnoreLabel at a document's (joined: the stream's) last token.
  std::vector<int64_t> labels;
  std::vector<int64_t> positions;   // [tokens]: place in its piece, 0 at each piece's start
  std::vector<int64_t> doc_starts;  // where the pieces start: ascending, first 0
};

// Rows one after the other, in the form the model takes them.
struct PackedBatch {
  std::vector<int64_t> ids, labels, positions;  // [tokens] of all rows
  std::vector<int64_t> doc_offsets;             // pieces + 1 ascending, first 0, last tokens
  std::vector<int64_t> row_offsets;             // rows + 1
  int64_t scored = 0;                           // labels that are not kIgnoreLabel
};

class PackedDataset {
 public:
  // seq_len ≥ 1. Without a shuffle_seed documents keep their order. The last row ends with the
  // last token: padding would be routed to experts and counted among their loads. With joined
  // documents a last row of fewer tokens is left out, unless it is the only one: all rows are
  // alike.
  PackedDataset(std::shared_ptr<const TokenizedText> text, int64_t seq_len,
                std::optional<uint64_t> shuffle_seed, Documents documents = Documents::separate);

  int64_t rows() const { return rows_; }
  int64_t seq_len() const { return seq_len_; }
  PackedRow row(int64_t i) const;
  PackedBatch batch(std::span<const int64_t> rows) const;
  int64_t scored(int64_t i) const {
    return scored_before_[i + 1] - scored_before_[i];
  }  // positions of row i with a label
  int64_t scored() const { return scored_before_[rows_]; }
  const TokenizedText& text() const { return *text_; }

 private:
  void join(PackedRow& row, int64_t end) const;

  std::shared_ptr<const TokenizedText> text_;
  int64_t seq_len_, rows_;
  Documents documents_;
  std::vector<int64_t> order_;          // documents in packed order
  std::vector<int64_t> starts_;         // docs + 1: where each of them starts in the joined stream
  std::vector<int64_t> scored_before_;  // rows + 1
};

// Which row sample n is: every epoch goes through all rows once, each in an order of its own. The
// position of a run is one number, the next sample; batches, ranks and micro-batches are ranges of
// it.
class Sampler {
 public:
  Sampler(int64_t rows, uint64_t seed);  // rows ≥ 1
  int64_t row(int64_t sample);  // not thread-safe: keeps the order of the last epoch asked for
  int64_t epoch(int64_t sample) const { return sample / rows_; }
  std::vector<int64_t> rows(int64_t first, int64_t count);  // of samples first … first + count − 1

 private:
  int64_t rows_;
  uint64_t seed_;
  int64_t order_epoch_ = -1;
  std::optional<Permutation> order_;
};

}  // namespace conclave::data
