// A step as one launch on a GPU: train/recording.h around train/step.h, with the same bits.
#pragma once
#include <optional>

#include "train/recording.h"
#include "train/step.h"

namespace conclave::train {

class CapturedStep {
 public:
  // All outlive it; of the options lr is not looked at. One rank, bf16 on a GPU (the experts' fp32
  // products wait for the device); throws otherwise.
  CapturedStep(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
               optim::AdamW& optimizer, StepOptions options);

  // As train::step. What of a batch the kernels get from the host is part of the recording: the
  // number of micro-batches, their sizes and offsets, and how many tokens are scored. A step in
  // which any of it differs from the first is launched kernel by kernel, as are the first few;
  // throws if the documents of the first are not all of one length, as then hardly any would be
  // alike.
  StepFigures run(std::vector<parallel::Batch> batches, double lr);

  int64_t replayed() const { return replayed_; }  // steps that were one launch

 private:
  StepFigures launch(StepBatches batches, const StepStart& start);

  nn::Decoder& decoder_;
  parallel::Units& units_;
  comm::Dispatcher& dispatcher_;
  optim::AdamW& optimizer_;
  const StepOptions options_;
  Recording recording_;
  std::optional<StepBatches> inputs_;  // whose tensors the recording reads
  at::Tensor lr_;                      // [1] fp64, likewise
  at::Tensor figures_;                 // [8] fp64, which it writes
  int64_t runs_ = 0, replayed_ = 0;
};

}  // namespace conclave::train
