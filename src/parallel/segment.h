// What a micro-batch is, and the segments that its way through a decoder is made of.
#pragma once
#include <ATen/core/Tensor.h>

#include <set>
#include <span>
#include <string>
#include <vector>

#include "nn/decoder.h"

namespace conclave::parallel {

// Tensors on the units' device.
struct Batch {
  at::Tensor ids;     // [tokens] int64
  at::Tensor labels;  // [tokens] int64: target of each position, ops::kIgnore where there is none;
                      // undefined for inference
  nn::Rows rows;
  // [tokens, hidden]: what the pipeline rank before left, for a decoder without ends; ids and
  // labels are undefined then.
  at::Tensor hidden = {};
};

// Copies to `device` through pinned memory, without waiting; what is there already is shared. A
// batch's `replay` is left as it is.
at::Tensor to_device(const at::Tensor& host, at::Device device);
Batch to_device(Batch batch, at::Device device);

struct RunOptions {
  bool training = true;                 // record tapes and compute gradients
  std::set<std::string> recompute;      // tensor classes that are made again in the backward
  bool defer_weight_gradients = false;  // leave them to run_weight_gradients()
  double loss_seed =
      1;  // the loss is Σ of token losses times this: 1 / scored tokens of the global batch
  // In training with labels: weight of multi-token prediction's loss, the mean over the modules of
  // Σ of their token losses times loss_seed; 0: the modules do not run.
  double mtp_weight = 0;
  // The step's last micro-batch: a unit's gradient is reduced as soon as its backward has passed.
  bool last = false;
  // The experts' weight gradients run while their rows' gradient goes back: set where that goes
  // beside (comm::Dispatcher::lane), but with defer_weight_gradients.
  bool experts_gradients_late = false;
};

enum class SegmentKind {
  embed,
  mix,
  route,
  dispatch,
  shared,
  experts,
  combine,
  join,
  feed_forward,
  head,
  mtp_join,
  mtp_head
};
struct Segment {
  SegmentKind kind;
  int layer;  // nn::Decoder::layer; −1 for embed and head
};

// A layer's kinds of segment, in the order of the forward.
std::vector<SegmentKind> kinds_of(const nn::Block& block);

// The units whose weights a segment needs, up to two; null: none.
struct UnitsOfSegment {
  nn::Unit *first = nullptr, *second = nullptr;
};
UnitsOfSegment units_of(const nn::Decoder& decoder, Segment segment, bool backward,
                        const RunOptions& options);
// Whether a segment of the same layer that comes after segments[index] needs the unit too, so that
// it is not gathered once a segment.
bool needed_again(const nn::Decoder& decoder, std::span<const Segment> segments, int index,
                  bool backward, const RunOptions& options, const nn::Unit* unit);

// After run_backward: the weight gradients now, or later where the options say so.
inline void finish_tape(nn::Tape& tape, const RunOptions& options) {
  tape.run_backward();
  if (!options.defer_weight_gradients) tape.run_weight_gradients();
}

}  // namespace conclave::parallel
