// What a run keeps to go on from: weights and moments under their checkpoint names, and a handful
// of numbers.
#pragma once
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "comm/capacity.h"
#include "optim/adamw.h"
#include "parallel/units.h"

namespace conclave::train {

struct TrainState {
  int64_t step = 0;     // optimizer steps done, skipped ones included
  int64_t sample = 0;   // global id of the next row to train on
  int64_t skipped = 0;  // steps whose loss or gradient was not finite
  int64_t tokens = 0;   // scored tokens trained on
  uint64_t data =
      0;  // fingerprint of the packed rows: sample ids mean the same rows only with the same one
  double best_validation =
      std::numeric_limits<double>::infinity();  // of the checkpoints, nats a token
  comm::CapacityState capacity;  // of a dispatcher that has one; else it is not saved
};

using OfShard = std::function<at::Tensor(size_t shard)>;  // weights, gradient or a moment of
                                                          // units.shards()[shard]; may be undefined

// Flat tensors under their checkpoint names (+ suffix) and in its shapes, without a copy: what the
// checkpoint holds transposed is a transposed view. One rank.
std::vector<checkpoint::NamedTensor> named_tensors(parallel::Units& units, const OfShard& of,
                                                   const std::string& suffix = "");
// The same as places to load into; any number of ranks.
std::vector<checkpoint::LoadTarget> load_targets(parallel::Units& units, const OfShard& of,
                                                 const std::string& suffix = "");

// The model's weights as its folder holds them, with the copies that a checkpoint of this
// architecture has under a second name (nn::Decoder::copies). Without a copy here; one rank.
std::vector<checkpoint::NamedTensor> weight_tensors(parallel::Units& units);
// Fills `into` (usually the shards' weights) from a model folder in any form that checkpoint/load.h
// reads; what a folder may hold beside the weights is read past. Any number of ranks.
void load_weights(const checkpoint::HfFolder& folder, parallel::Units& units, const OfShard& into);

// The numbers of the state as they are saved.
std::vector<checkpoint::NamedTensor> number_tensors(const TrainState& state);

// The model's weights, `optimizer.safetensors` (NAME.m, NAME.v, with bf16 weights NAME.lo) and
// `train_state.safetensors`.
checkpoint::FolderContents contents_of(parallel::Units& units, optim::AdamW& optimizer,
                                       const TrainState& state);

// Fills all of it from a checkpoint's folder, whatever ranks wrote it. Any number of ranks. Throws
// RunError naming what is missing or does not fit.
TrainState restore(const std::string& folder, parallel::Units& units, optim::AdamW& optimizer);

}  // namespace conclave::train
