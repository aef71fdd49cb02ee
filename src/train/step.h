// One optimizer step: accumulate over micro-batches, reduce, clip by one global norm, update. The
// host launches it and waits for nothing: what it wants to know of a step it reads later.
#pragma once
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/timer.h"
#include "comm/capacity.h"
#include "comm/dispatch.h"
#include "nn/decoder.h"
#include "optim/adamw.h"
#include "parallel/micro_batch.h"
#include "parallel/units.h"

namespace conclave::train {

// This rank's part of a step's global batch on the units' device, and what the whole batch counts.
struct StepBatches {
  std::vector<parallel::Batch> batches;
  int64_t scored = 0, rows = 0, tokens = 0;
};
// Counts labels, rows and tokens of batches on the CPU and copies them. Collective.
StepBatches on_units(parallel::Units& units, std::vector<parallel::Batch> batches);

struct Gradients {
  // [1] fp64 on the units' device, Σ over the global batch: nats over the scored positions, the
  // same of multi-token prediction and how many its modules score, the routers' losses of all
  // layers with coefficients.
  at::Tensor loss_sum, mtp_loss_sum, mtp_scored, aux;
  // [2] fp64: of how many ranks the own part of the loss is not finite, Σ of their numbers.
  at::Tensor odd;
  at::Tensor max_load;  // [1] fp64: StepResult::max_load
  at::Tensor load;      // [2] fp64: StepResult::load; undefined where no capacity is to hold it
  int64_t scored = 0;
  // [experts] int64 by layer, then by module of multi-token prediction that ran, undefined for a
  // dense one: (token, expert) pairs of the global batch, each counted once, in the forward.
  std::vector<at::Tensor> loads;
};

// Zeroes the gradients, then runs forward and backward of each micro-batch of this rank's part of
// the global batch, and sums the gradients over ranks into the shards. Seeds are set here: 1 /
// scored tokens, and for the routers' losses 1 / rows and 1 / tokens, all of the global batch, so
// it does not matter how that is cut. `at_once`: 2 micro-batches run together
// (parallel/together.h), or 1. Collective.
Gradients accumulate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                     StepBatches batches, const std::set<std::string>& recompute,
                     double mtp_weight = 0, int at_once = 1);
inline Gradients accumulate(nn::Decoder& decoder, parallel::Units& units,
                            comm::Dispatcher& dispatcher, std::vector<parallel::Batch> batches,
                            const std::set<std::string>& recompute, double mtp_weight = 0,
                            int at_once = 1) {
  return accumulate(decoder, units, dispatcher, on_units(units, std::move(batches)), recompute,
                    mtp_weight, at_once);
}

struct StepOptions {
  double lr = 0;
  double clip_norm = 0;             // 0: no clipping
  std::set<std::string> recompute;  // tensor classes
  double bias_rate = 0;             // of the routers' correction biases; 0: they stay as they are
  double mtp_weight = 0;            // of multi-token prediction's loss; 0: its modules do not run
  int at_once = 1;                  // micro-batches
};

struct StepResult {
  double loss =
      0;  // mean over the scored tokens of the global batch, nats, without the auxiliary loss
  double mtp_loss = 0;   // likewise of multi-token prediction, over what its modules score
  double aux = 0;        // the routers' losses of all layers, coefficients included
  double grad_norm = 0;  // before clipping
  int64_t scored = 0;    // tokens, over all ranks
  bool skipped = false;  // a loss or gradient was not finite: weights, moments, the optimizer's
                         // count of steps and correction biases are as before
  double max_load = 0;   // largest share of an expert in any layer, as a multiple of the mean
  // Of several ranks: how many had a loss that is not finite on their own rows, and which one if it
  // was one.
  int odd_ranks = 0, odd_rank = 0;
  // Of a dispatcher with capacity: the highest load of any layer, micro-batch and rank. Where rows
  // found no room, in this step or in one since the capacity was cleared, it changed nothing, as a
  // skipped one, and is to be run again.
  comm::Capacity load;
  bool left_out = false;
  double seconds = 0;  // on the device, from its batches to its figures
};

// When a step began: on a GPU a mark behind what its stream has to do before.
class StepStart {
 public:
  explicit StepStart(at::Device device);

 private:
  friend class StepFigures;
  Timer timer_;
  std::shared_ptr<void> event_;  // none on the CPU
};

// A step's figures on their way to the host.
class StepFigures {
 public:
  StepFigures() = default;
  // `numbers`: what launch_step returned. Starts the copy behind the work of the current stream.
  StepFigures(const at::Tensor& numbers, int64_t scored, const StepStart& start);
  // Waits until the step is done.
  StepResult wait() const;

 private:
  at::Tensor host_;              // [numbers] fp64, pinned for those of a GPU
  std::shared_ptr<void> done_;   // the event behind the copy; none on the CPU
  std::shared_ptr<void> start_;  // likewise
  int64_t scored_ = 0;
  double seconds_ = 0;  // on the CPU
};

// accumulate, clip, and one update of the optimizer over this rank's shards, then of the correction
// biases: + bias_rate where an expert had fewer than the mean of the global batch, − where more.
// `lr` [1] fp64 on the units' device; that of the options is not looked at. Does not wait for the
// device. Returns the figures there, [8] fp64, with a capacity [11]. Collective.
at::Tensor launch_step(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                       optim::AdamW& optimizer, StepBatches batches, const at::Tensor& lr,
                       const StepOptions& options);

// The same from batches on the CPU, with the figures on their way.
StepFigures step(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                 optim::AdamW& optimizer, std::vector<parallel::Batch> batches,
                 const StepOptions& options);

// Loss of a batch on the CPU without gradients, of this rank. Does not wait for the device.
struct Evaluation {
  at::Tensor loss_sum;  // [1] fp64 on the units' device
  int64_t scored = 0;
};
Evaluation evaluate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                    parallel::Batch batch);

}  // namespace conclave::train
