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
  double bias_rate = 0;             // of the routers' correction biases; 0: they stay as they are
  double mtp_weight = 0;            // of multi-token prediction's loss; 0: its modules do not run
};

struct StepResult {
  double loss =
      0;  // mean over the scored tokens of the global batch, nats, without the auxiliary loss
  double mtp_loss = 0;   // likewise of multi-token prediction, over what its modules score
  double aux = 0;        // the routers' losses of all layers, coefficients included
  double grad_norm = 0;  // before clipping
  int64_t scored = 0;    // tokens, over all ranks
  bool skipped = false;  // a loss or gradient was not finite: weights, moments and correction
                         // biases are as before
  double max_load = 0;   // largest share of an expert in any layer, as a multiple of the mean
};

struct Gradients {
  double loss_sum = 0, mtp_loss_sum = 0, aux = 0, max_load = 0;
  int64_t scored = 0, mtp_scored = 0;
  // [experts] int64 by layer, then by module of multi-token prediction that ran, undefined for a
  // dense one: (token, expert) pairs of the global batch, each counted once, in the forward.
  std::vector<at::Tensor> loads;
};

// Zeroes the gradients, then runs forward and backward of each micro-batch of this rank's part of
// the global batch, and sums the gradients over ranks into the shards. Seeds are set here: 1 /
// scored tokens, and for the routers' losses 1 / rows and 1 / tokens, all of the global batch, so
// it does not matter how that is cut. Collective.
Gradients accumulate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                     std::vector<parallel::Batch> batches, const std::set<std::string>& recompute,
                     double mtp_weight = 0);

// accumulate, clip, and one update of the optimizer over this rank's shards, then of the correction
// biases: + bias_rate where an expert had fewer than the mean of the global batch, − where more.
// Collective.
StepResult step(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                optim::AdamW& optimizer, std::vector<parallel::Batch> batches,
                const StepOptions& options);

// Mean loss of batches without gradients: (sum of nats, scored tokens) of this rank.
Gradients evaluate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                   parallel::Batch batch);

}  // namespace conclave::train
