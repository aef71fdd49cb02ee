// Two micro-batches at a time: where the rows of one are on their way to experts or back, the other
// computes.
#pragma once
#include "parallel/micro_batch.h"

namespace conclave::parallel {

// Forward of both, backward of both: one runs until its rows are on their way, then the other. In
// each segment `a` comes first, so that what both add to a weight's gradient adds up in the order
// of one after the other, but to a weight that the forward of the head and another segment add to
// (tied embeddings, multi-token prediction). Both are of one decoder and have the same segments.
void forward_together(MicroBatch& a, MicroBatch& b);
void backward_together(MicroBatch& a, MicroBatch& b);

}  // namespace conclave::parallel
