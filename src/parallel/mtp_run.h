// A module of multi-token prediction on a micro-batch's way: what comes before and after its layer.
#pragma once
#include "nn/decoder.h"
#include "parallel/head_run.h"
#include "parallel/segment.h"

namespace conclave::parallel {

// A batch seen one token on: of each document all positions but the last, with the ids and labels
// of the positions after them. Nothing of another document comes in, and no position without a
// next token is routed, counted or scored. Rows keep their seeds; router replay does not go on.
struct NextToken {
  at::Tensor kept;  // [tokens] int64: these positions in the batch before
  Batch batch;
};
NextToken next_token(const Batch& before);

class MtpRun {
 public:
  // The decoder and the module outlive it. `before`: the batch that the states come from.
  MtpRun(const nn::Decoder& decoder, const nn::Mtp& module, const Batch& before,
         const nn::Tape& fresh);

  const Batch& batch() const { return next_.batch; }
  // hidden [tokens before, hidden] → the layer's input [tokens, hidden], and back.
  at::Tensor join(const at::Tensor& hidden);
  at::Tensor join_backward(const at::Tensor& dx, const RunOptions& options);
  // The layer's output → its norm; the loss times `seed`.
  at::Tensor head(at::Tensor hidden, double seed);

  nn::Tape& join_tape() { return join_; }
  const nn::Tape& join_tape() const { return join_; }
  HeadRun& head_run() { return head_; }
  const HeadRun& head_run() const { return head_; }

 private:
  const nn::Decoder& decoder_;
  const nn::Mtp& module_;
  const NextToken next_;
  const int64_t tokens_before_;
  nn::Tape join_;
  nn::Value in_, out_;
  HeadRun head_;
};

}  // namespace conclave::parallel
