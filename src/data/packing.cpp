#include "data/packing.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace conclave::data {

PackedDataset::PackedDataset(std::shared_ptr<const TokenizedText> text, int64_t seq_len,
                             std::optional<uint64_t> shuffle_seed, Documents documents)
    : text_(std::move(text)), seq_len_(seq_len), documents_(documents) {
  TORCH_CHECK(seq_len >= 1, "seq_len: expected at least 1, got ", seq_len);
  const int64_t docs = text_->docs();
  order_.resize(docs);
  for (int64_t d = 0; d < docs; ++d) order_[d] = d;
  if (shuffle_seed) {
    Permutation shuffled(static_cast<uint64_t>(docs), *shuffle_seed, 0);
    for (int64_t d = 0; d < docs; ++d) order_[d] = static_cast<int64_t>(shuffled[d]);
  }
  starts_.reserve(docs + 1);
  starts_.push_back(0);
  for (int64_t d : order_)
    starts_.push_back(starts_.back() + text_->doc_offsets[d + 1] - text_->doc_offsets[d]);
  rows_ = (text_->tokens() + seq_len_ - 1) / seq_len_;
  if (documents_ == Documents::joined && rows_ > 1) rows_ = text_->tokens() / seq_len_;
  // Not scored are the last tokens of documents, or of the stream; count them by the row they are
  // in.
  scored_before_.assign(rows_ + 1, 0);
  for (int64_t d = 0; d < docs; ++d)
    if (starts_[d + 1] > starts_[d] &&
        (documents_ == Documents::separate || starts_[d + 1] == text_->tokens()))
      if (const int64_t row = (starts_[d + 1] - 1) / seq_len_; row < rows_)
        --scored_before_[row + 1];
  for (int64_t i = 0; i < rows_; ++i)
    scored_before_[i + 1] += scored_before_[i] + std::min(seq_len_, text_->tokens() - i * seq_len_);
}

// One piece of what `row` has found.
void PackedDataset::join(PackedRow& row, int64_t end) const {
  const auto filled = static_cast<int64_t>(row.ids.size());
  row.doc_starts = {0};
  for (int64_t p = 0; p < filled; ++p) row.positions[p] = p;
  for (int64_t p = 0; p + 1 < filled; ++p) row.labels[p] = row.ids[p + 1];
  if (end == text_->tokens()) return;  // nothing follows the last token
  const auto next = std::upper_bound(starts_.begin(), starts_.end(), end) - starts_.begin() - 1;
  row.labels[filled - 1] = text_->doc(order_[next])[end - starts_[next]];
}

PackedRow PackedDataset::row(int64_t i) const {
  TORCH_CHECK(i >= 0 && i < rows_, "row: expected 0 to ", rows_ - 1, ", got ", i);
  PackedRow row;
  const int64_t begin = i * seq_len_, end = std::min(begin + seq_len_, text_->tokens());
  // The document that `begin` is in: the last that starts at or before it (empty ones start there
  // too, and come first).
  int64_t d = std::upper_bound(starts_.begin(), starts_.end(), begin) - starts_.begin() - 1;
  for (int64_t at = begin; at < end; ++d) {
    const int64_t stop = std::min(end, starts_[d + 1]);
    if (stop == at) continue;
    const int32_t* ids = text_->doc(order_[d]).data() + (at - starts_[d]);
    row.doc_starts.push_back(at - begin);
    for (int64_t p = 0; p < stop - at; ++p) {
      row.ids.push_back(ids[p]);
      row.labels.push_back(at + p + 1 < starts_[d + 1] ? ids[p + 1] : kIgnoreLabel);
      row.positions.push_back(p);
    }
    at = stop;
  }
  if (documents_ == Documents::joined) join(row, end);
  return row;
}

PackedBatch PackedDataset::batch(std::span<const int64_t> rows) const {
  PackedBatch batch;
  for (int64_t i : rows) {
    PackedRow row = this->row(i);
    const auto begin = static_cast<int64_t>(batch.ids.size());
    batch.row_offsets.push_back(begin);
    for (int64_t start : row.doc_starts) batch.doc_offsets.push_back(begin + start);
    batch.ids.insert(batch.ids.end(), row.ids.begin(), row.ids.end());
    batch.labels.insert(batch.labels.end(), row.labels.begin(), row.labels.end());
    batch.positions.insert(batch.positions.end(), row.positions.begin(), row.positions.end());
    batch.scored += scored(i);
  }
  batch.row_offsets.push_back(static_cast<int64_t>(batch.ids.size()));
  batch.doc_offsets.push_back(static_cast<int64_t>(batch.ids.size()));
  return batch;
}

Sampler::Sampler(int64_t rows, uint64_t seed) : rows_(rows), seed_(seed) {
  TORCH_CHECK(rows >= 1, "a sampler needs rows, got ", rows);
}

int64_t Sampler::row(int64_t sample) {
  TORCH_CHECK(sample >= 0, "sample: expected at least 0, got ", sample);
  if (epoch(sample) != order_epoch_) {
    order_epoch_ = epoch(sample);
    order_.emplace(static_cast<uint64_t>(rows_), seed_, static_cast<uint64_t>(order_epoch_));
  }
  return static_cast<int64_t>((*order_)[sample % rows_]);
}

std::vector<int64_t> Sampler::rows(int64_t first, int64_t count) {
  std::vector<int64_t> rows;
  for (int64_t n = first; n < first + count; ++n) rows.push_back(row(n));
  return rows;
}

}  // namespace conclave::data
