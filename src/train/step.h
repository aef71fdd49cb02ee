// One optimizer step: accumulate over micro-batches, reduce, clip by one global norm, update.
#pragma once
#include <set>
#include <string>
#include <vector>

#include "comm/dispatch.h"
#include "nn/decoder.h"
#include "optim/adamw.h"
#include "parallel/micro_batch.h"
#include "parallel/units.h"

namespace conclave::train {

struct StepOptions {
  double lr = 0;
  double clip_norm = 0;             // 0: no clipping
  std::set<std::string> recompute;  // tensor classes
};

struct StepResult {
  double loss =
      0;  // mean over the scored tokens of the global batch, nats, without the auxiliary loss
  double aux = 0;        // auxiliary loss of all layers, its coefficient included
  double grad_norm = 0;  // before clipping
  int64_t scored = 0;    // tokens, over all ranks
  bool skipped = false;  // a loss or gradient was not finite: weights and moments are as before
  double max_load = 0;   // largest share of an expert in any layer, as a multiple of the mean
};

struct Gradients {
  double loss_sum = 0, aux = 0, max_load = 0;
  int64_t scored = 0;
};

// Zeroes the gradients, then runs forward and backward of each micro-batch of this rank's part of
// the global batch, and sums the gradients over ranks into the shards. Seeds are set here: 1 /
// scored tokens, and 1 / rows for the auxiliary loss, both of the global batch, so it does not
// matter how that is cut. Collective.
Gradients accumulate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                     std::vector<parallel::Batch> batches, const std::set<std::string>& recompute);

// accumulate, clip, and one update of the optimizer over this rank's shards. Collective.
StepResult step(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                optim::AdamW& optimizer, std::vector<parallel::Batch> batches,
                const StepOptions& options);

// Mean loss of batches without gradients: (sum of nats, scored tokens) of this rank.
Gradients evaluate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                   parallel::Batch batch);

}  // namespace conclave::train
