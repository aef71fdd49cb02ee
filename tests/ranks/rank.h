// One thread rank of a run, with what it trains.
#pragma once
#include <memory>
#include <optional>

#include "comm/dispatch_capacity.h"
#include "optim/adamw.h"
#include "parallel/units.h"
#include "ranks/parity.h"
#include "train/step.h"

namespace conclave::ranks {

struct Rank {
  Rank(const RunSpec& run, comm::CommFactory& factory, uint64_t seed = 5);
  std::vector<parallel::Batch> batches(const RunSpec& run) const;  // this rank's rows
  train::StepResult step(const RunSpec& run);                      // with clipping
  std::vector<at::Tensor> loads(const RunSpec& run);  // of a step that changes nothing, by layer

  comm::Groups groups;
  nn::Decoder decoder;
  parallel::Units units;
  std::unique_ptr<comm::Dispatcher> dispatcher;
  std::optional<optim::AdamW> optimizer;
};

}  // namespace conclave::ranks
