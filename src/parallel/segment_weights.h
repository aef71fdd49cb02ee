// Which weights are gathered while a micro-batch passes, and when.
#pragma once
#include <vector>

#include "nn/decoder.h"
#include "parallel/segment.h"
#include "parallel/units.h"

namespace conclave::parallel {

// The weights of a pass's segments: gathered before a segment runs, the next ones on their way
// meanwhile, released when their layer needs them no more. What is gathered when depends on the
// program alone, so it is the same on all ranks.
class SegmentWeights {
 public:
  // All outlive it.
  SegmentWeights(const nn::Decoder& decoder, Units& units, const std::vector<Segment>& segments,
                 const RunOptions& options)
      : decoder_(decoder), units_(units), segments_(segments), options_(options) {}

  void begin(int index, bool backward);
  void end(int index, bool backward);

 private:
  bool take(nn::Unit* unit);  // false: it was held
  void prefetch_next(int index, bool backward);
  bool comes_again(int index, const nn::Unit* unit) const;

  const nn::Decoder& decoder_;
  Units& units_;
  const std::vector<Segment>& segments_;
  const RunOptions& options_;
  std::vector<nn::Unit*> held_;
};

}  // namespace conclave::parallel
