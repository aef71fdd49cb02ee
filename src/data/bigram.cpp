#include "data/bigram.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace conclave::data {
namespace {

constexpr double kDiscount = 0.75;

}  // namespace

Bigram::Bigram(const TokenizedText& train, int64_t vocab)
    : unigram_(vocab), begins_(vocab + 1), totals_(vocab) {
  std::vector<int64_t> counts(vocab);
  std::vector<uint64_t> pairs;
  for (int64_t d = 0; d < train.docs(); ++d) {
    auto ids = train.doc(d);
    for (size_t i = 0; i < ids.size(); ++i) {
      TORCH_CHECK(ids[i] >= 0 && ids[i] < vocab, "expected tokens below ", vocab, ", got ", ids[i]);
      ++counts[ids[i]];
      if (i > 0)
        pairs.push_back(static_cast<uint64_t>(ids[i - 1]) << 32 | static_cast<uint32_t>(ids[i]));
    }
  }
  const auto kinds = vocab - std::count(counts.begin(), counts.end(), 0);
  const auto total = static_cast<double>(train.tokens());
  TORCH_CHECK(total > 0, "a bigram model needs training tokens");
  for (int64_t w = 0; w < vocab; ++w)
    unigram_[w] = std::max(static_cast<double>(counts[w]) - kDiscount, 0.0) / total +
                  kDiscount * static_cast<double>(kinds) / total / static_cast<double>(vocab);
  std::sort(pairs.begin(), pairs.end());
  for (size_t i = 0, same; i < pairs.size(); i = same) {
    for (same = i; same < pairs.size() && pairs[same] == pairs[i];) ++same;
    const auto previous = static_cast<int64_t>(pairs[i] >> 32);
    successors_.push_back(static_cast<int32_t>(pairs[i]));
    counts_.push_back(static_cast<int64_t>(same - i));
    totals_[previous] += static_cast<int64_t>(same - i);
    ++begins_[previous + 1];
  }
  for (int64_t v = 0; v < vocab; ++v) begins_[v + 1] += begins_[v];
}

double Bigram::probability(int64_t previous, int64_t next) const {
  const auto total = static_cast<double>(totals_.at(previous));
  if (total == 0) return unigram_.at(next);
  auto begin = successors_.begin() + begins_[previous];
  auto end = successors_.begin() + begins_[previous + 1];
  auto found = std::lower_bound(begin, end, static_cast<int32_t>(next));
  double seen = 0;
  if (found != end && *found == next)
    seen = static_cast<double>(counts_[found - successors_.begin()]) - kDiscount;
  return (seen + kDiscount * static_cast<double>(end - begin) * unigram_.at(next)) / total;
}

double Bigram::nats_per_token(const PackedDataset& rows) const {
  TORCH_CHECK(rows.scored() > 0, "expected rows with a scored position");
  double sum = 0;
  for (int64_t i = 0; i < rows.rows(); ++i) {
    PackedRow row = rows.row(i);
    for (size_t t = 0; t < row.ids.size(); ++t)
      if (row.labels[t] != kIgnoreLabel) sum -= std::log(probability(row.ids[t], row.labels[t]));
  }
  return sum / static_cast<double>(rows.scored());
}

double bits_per_byte(double nats_per_token, const PackedDataset& rows) {
  return nats_per_token / std::numbers::ln2 * static_cast<double>(rows.scored()) /
         static_cast<double>(rows.text().bytes);
}

}  // namespace conclave::data
