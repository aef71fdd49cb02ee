// One thread rank of a run, with what it trains.
#pragma once
#include <memory>
#include <optional>

#include "comm/dispatch_ranks.h"
#include "optim/adamw.h"
#include "parallel/units.h"
#include "ranks/parity.h"
#include "train/step.h"

namespace conclave::ranks {

struct Rank {
  Rank(const RunSpec& run, comm::CommFactory& factory, uint64_t seed = 5);
  train::StepResult step(const RunSpec& run);  // on this rank's rows, with clipping

  comm::Groups groups;
  nn::Decoder decoder;
  parallel::Units units;
  std::unique_ptr<comm::Dispatcher> dispatcher;
  std::optional<optim::AdamW> optimizer;
};

}  // namespace conclave::ranks
