// The collective calls of an optimizer step, in their order and of their sizes, without data or
// compute: on dry groups (comm/dry_groups.h) with units on the meta device.
#pragma once
#include "comm/dispatch.h"
#include "nn/decoder.h"
#include "parallel/segment.h"
#include "parallel/units.h"

namespace conclave::parallel {

struct DryStep {
  int64_t tokens = 0;         // of this rank in a micro-batch
  int64_t micro_batches = 1;  // in a step
  RunOptions run;             // recompute, mtp_weight
  bool capacity = false;      // of the dispatcher: loads are summed too
};

// What train::step calls on the units' groups and on `dispatcher` for the decoder's segments; with
// modules of multi-token prediction each of as many tokens (real ones have a few fewer).
void dry_step(nn::Decoder& decoder, Units& units, comm::Dispatcher& dispatcher,
              const DryStep& step);

}  // namespace conclave::parallel
