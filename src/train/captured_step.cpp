#include "train/captured_step.h"

#include <ATen/ops/empty.h>

#include "base/error.h"

namespace conclave::train {
namespace {

bool of_one_length(const std::vector<int64_t>& offsets) {
  for (size_t i = 2; i < offsets.size(); ++i)
    if (offsets[i] - offsets[i - 1] != offsets[1]) return false;
  return true;
}

// Whether the kernels of both get the same numbers from the host.
bool alike(const StepBatches& a, const StepBatches& b) {
  if (a.scored != b.scored || a.rows != b.rows || a.tokens != b.tokens ||
      a.batches.size() != b.batches.size())
    return false;
  for (size_t i = 0; i < a.batches.size(); ++i) {
    const nn::Rows &x = a.batches[i].rows, &y = b.batches[i].rows;
    if (x.doc_offsets != y.doc_offsets || x.row_offsets != y.row_offsets) return false;
  }
  return true;
}

}  // namespace

CapturedStep::CapturedStep(nn::Decoder& decoder, parallel::Units& units,
                           comm::Dispatcher& dispatcher, optim::AdamW& optimizer,
                           StepOptions options)
    : decoder_(decoder),
      units_(units),
      dispatcher_(dispatcher),
      optimizer_(optimizer),
      options_(std::move(options)),
      recording_(units.device()),
      lr_(at::empty({1}, at::TensorOptions().dtype(at::kDouble).device(units.device()))) {
  TORCH_CHECK(units.comm().size() == 1, "a captured step: expected one rank, got ",
              units.comm().size());
  for (const auto& unit : decoder.units)
    TORCH_CHECK(!unit->trained() || unit->dtype() == at::kBFloat16,
                "a captured step: expected bf16 weights, got ", unit->dtype(), " in ",
                unit->name());
}

StepFigures CapturedStep::run(std::vector<parallel::Batch> batches, double lr) {
  const StepStart start(units_.device());
  StepBatches now = on_units(units_, std::move(batches));
  lr_.fill_(lr);
  if (!inputs_) {
    for (const auto& batch : now.batches)
      if (!of_one_length(batch.rows.doc_offsets))
        throw RunError(
            "cuda_graph: the documents of a batch are of several lengths, which a recorded step "
            "cannot follow; join them (data.documents: joined), or leave cuda_graph out");
    inputs_ = now;
  } else if (!alike(now, *inputs_)) {
    return launch(std::move(now), start);
  } else {
    for (size_t i = 0; i < now.batches.size(); ++i) {
      const parallel::Batch &from = now.batches[i], &to = inputs_->batches[i];
      to.ids.copy_(from.ids);
      to.labels.copy_(from.labels);
      to.rows.positions.copy_(from.rows.positions);
    }
  }
  recording_.run([&] {
    figures_ = launch_step(decoder_, units_, dispatcher_, optimizer_, *inputs_, lr_, options_);
  });
  if (++runs_ > Recording::kWarmUp) ++replayed_;
  return {figures_, inputs_->scored, start};
}

StepFigures CapturedStep::launch(StepBatches batches, const StepStart& start) {
  const int64_t scored = batches.scored;
  return {launch_step(decoder_, units_, dispatcher_, optimizer_, std::move(batches), lr_, options_),
          scored, start};
}

}  // namespace conclave::train
