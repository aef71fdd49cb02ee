// What several ranks save together: each what it holds, replicas once (train/state.h is one
// rank's).
#pragma once
#include "checkpoint/shared_save.h"
#include "train/state.h"

namespace conclave::train {

// The same folder as contents_of of one rank that held everything. Without a copy.
checkpoint::SharedContents shared_contents_of(parallel::Units& units, optim::AdamW& optimizer,
                                              const TrainState& state);

}  // namespace conclave::train
