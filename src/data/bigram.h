// The yardstick of the demo: an interpolated bigram model with absolute discount D = 0.75.
//   p(w | v) = max(c(v, w) − D, 0) / c(v) + D · N(v) / c(v) · p(w)     c(v) = Σ c(v, ·), N(v) = how
//   many w follow v; p(w) if c(v) = 0 p(w)     = max(c(w) − D, 0) / c + D · N / c · 1 / vocab over
//   all training tokens, so that nothing is zero
// Source: Ney, Essen and Kneser, "On structuring probabilistic dependences in stochastic language
// modelling", 1994.
#pragma once
#include <cstdint>
#include <vector>

#include "data/packing.h"

namespace conclave::data {

class Bigram {
 public:
  // Counts pairs of neighbours within each document, its end-of-text token included.
  Bigram(const TokenizedText& train, int64_t vocab);
  double probability(int64_t previous, int64_t next) const;
  // Mean of −log p(label | id) over the scored positions of the rows.
  double nats_per_token(const PackedDataset& rows) const;

 private:
  std::vector<double> unigram_;      // [vocab] p(w)
  std::vector<int64_t> begins_;      // [vocab + 1] of successors_ and counts_
  std::vector<int32_t> successors_;  // ascending for each v
  std::vector<int64_t> counts_;      // c(v, w)
  std::vector<int64_t> totals_;      // [vocab] c(v)
};

// nats a token of `rows` as bits a byte of their text: nats / log 2 · scored positions / bytes of
// the documents.
double bits_per_byte(double nats_per_token, const PackedDataset& rows);

}  // namespace conclave::data
