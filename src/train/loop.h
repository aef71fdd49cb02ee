// The loop around a step: batches in, steps, log, validation, checkpoints, a clean stop.
#pragma once
#include <functional>
#include <set>
#include <string>

#include "checkpoint/run_folder.h"
#include "comm/call_times.h"
#include "comm/dispatch.h"
#include "data/packing.h"
#include "nn/decoder.h"
#include "optim/adamw.h"
#include "parallel/micro_batch.h"
#include "train/capacity.h"
#include "train/state.h"

namespace conclave::train {

struct LoopConfig {
  int64_t steps = 1000;
  int64_t rows = 16;        // packed rows a step, of all ranks: as many of each
  int64_t micro_rows = 16;  // of a rank's at once
  double clip_norm = 1;
  int64_t max_skipped = 10;  // steps in a row; one more is a RunError, on all ranks
  double bias_rate = 0;      // of the routers' correction biases
  double mtp_weight = 0;     // of multi-token prediction's loss
  int at_once = 1;           // micro-batches
  std::set<std::string> recompute;
  bool cuda_graph = false;                 // train/captured_step.h
  comm::CapacityRule capacity;             // of a dispatcher that has one
  int64_t validate_every = 0;              // 0: at the end only
  int64_t checkpoint_every = 0;            // 0: at the end only
  std::function<double(int64_t step)> lr;  // of step 1, 2, …
  // What the progress line says beside the rate; may be empty.
  std::function<std::string(double tokens_per_second)> beside_rate;
};

// What is trained, introduced by the recipe. All outlive the loop. Where several ranks share the
// units, each has a loop: it trains on its part of a step's rows, the ranks stop at the same step
// and save together, rank 0 writes what is written down.
struct Parts {
  nn::Decoder& decoder;
  parallel::Units& units;
  comm::Dispatcher& dispatcher;
  optim::AdamW& optimizer;
  const data::PackedDataset& train;
  const data::PackedDataset* validation;  // none: no validation
  data::Sampler& sampler;
  checkpoint::RunFolder& folder;
  // Adds config.json, the tokenizer's files and the like to the contents of a checkpoint.
  std::function<void(checkpoint::FolderContents&)> complete;
  // Of the groups of several ranks: the progress line then names the slowest rank. May be null.
  comm::CallTimes* calls = nullptr;
};

struct LoopResult {
  bool stopped = false;  // by a signal, after saving
  double seconds = 0;    // of this process
  int64_t tokens = 0;    // of this process, scored
  double last_loss = 0, last_validation = 0;
};

// Runs from `state` to config.steps or until a stop is requested; saves at the end in either case.
// A state that is at the end already (its run was killed after its last save) is only tidied up and
// validated.
// Throws what saving throws.
LoopResult run_loop(const LoopConfig& config, Parts parts, TrainState& state);

// Rows of a dataset as the model takes them.
parallel::Batch make_batch(const data::PackedBatch& packed);

}  // namespace conclave::train
