// One layer on a micro-batch's way: its tapes, and what passes between its segments. Dispatch and
// combine, and their backward, start on the dispatcher's lane; the segment that needs what they
// bring waits for it. Where that lane is open the shared expert's backward and the experts' weight
// gradients run while rows are on their way.
#pragma once
#include <vector>

#include "comm/dispatch.h"
#include "nn/decoder.h"
#include "parallel/segment.h"

namespace conclave::parallel {

class LayerRun {
 public:
  // All outlive it; `fresh` is copied for each segment.
  LayerRun(const nn::Layer& layer, const nn::Rows& rows, comm::Dispatcher& dispatcher,
           const RunOptions& options, const nn::Tape& fresh);

  // hidden [tokens, hidden] or its gradient, taken in and left there where the segment has part in
  // the residual stream.
  void forward(SegmentKind kind, at::Tensor& hidden);
  void backward(SegmentKind kind, at::Tensor& dhidden);
  nn::Tape* tape_of(SegmentKind kind);  // null: dispatch and combine have none

  const nn::Routed& routed() const { return routed_; }
  std::vector<const nn::Tape*> tapes() const {
    return {&mix_, &route_, &shared_, &experts_, &join_};
  }

 private:
  void dispatch();
  void finish_combine();
  void backward_dispatch();
  void backward_shared();

  const nn::Layer& layer_;
  const nn::Rows& rows_;
  comm::Dispatcher& dispatcher_;
  const RunOptions& options_;
  nn::Tape mix_, route_, shared_, experts_, join_;
  // Values keep their gradient's slot; their data is dropped once it was passed on.
  nn::Value mix_in_, mix_out_, route_in_, shared_in_, shared_out_, received_, weights_,
      experts_out_, join_h_, join_combined_, out_;
  nn::Routed routed_;
  comm::Dispatch layout_;
  comm::OnWay rows_on_way_;    // of the dispatch or combine that was started last
  at::Tensor combined_;        // from combine to join
  at::Tensor dh_, dcombined_;  // gradients that join leaves for mix and combine
  at::Tensor dshared_out_, dexperts_out_, dreceived_, dweights_, dx_, drouting_;
};

}  // namespace conclave::parallel
