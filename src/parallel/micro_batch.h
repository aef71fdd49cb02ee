// One micro-batch on its way through a decoder: a list of segments, each with a forward and a
// backward, that a schedule runs in the order it likes between several micro-batches. Compute
// segments leave a tape each; dispatch and combine are steps of their own.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "comm/dispatch.h"
#include "nn/decoder.h"
#include "parallel/units.h"

namespace conclave::parallel {

struct Batch {
  at::Tensor ids;     // [tokens] int64
  at::Tensor labels;  // [tokens] int64: target of each position, ops::kIgnore where there is none;
                      // undefined for inference
  nn::Rows rows;
};

struct RunOptions {
  bool training = true;                 // record tapes and compute gradients
  std::set<std::string> recompute;      // tensor classes that are made again in the backward
  bool defer_weight_gradients = false;  // leave them to run_weight_gradients()
  double loss_seed =
      1;  // the loss is Σ of token losses times this: 1 / scored tokens of the global batch
};

enum class SegmentKind { embed, mix, route, dispatch, experts, combine, join, feed_forward, head };
struct Segment {
  SegmentKind kind;
  int layer;  // −1 for embed and head
};

class MicroBatch {
 public:
  MicroBatch(nn::Decoder& decoder, Units& units, comm::Dispatcher& dispatcher, Batch batch,
             RunOptions options);
  ~MicroBatch();
  MicroBatch(const MicroBatch&) = delete;

  // embed; per layer mix, route, dispatch, experts, combine, join or mix, feed_forward; head.
  const std::vector<Segment>& segments() const { return segments_; }
  void forward(int segment);    // ascending
  void backward(int segment);   // descending, after the forward of all
  void run_weight_gradients();  // those that defer_weight_gradients left

  // All of the above in order.
  void forward();
  void backward();

  double loss_sum() const { return loss_sum_; }  // Σ over scored positions, nats
  int64_t scored() const { return scored_; }
  double aux() const;  // this micro-batch's part of the router's losses
  at::Tensor hidden() const {
    return hidden_;
  }  // [tokens, hidden]: after the last forward segment; without labels the head
     // leaves the normed states here
  at::Tensor logits(const at::Tensor& positions);  // [n, vocab] of these positions of a finished
                                                   // forward; inference
  const at::Tensor& expert_ids(int layer) const;   // [tokens, top_k]; undefined for a dense layer
  const at::Tensor& loads(int layer) const;        // [experts] int64
  std::map<std::string, int64_t> saved_bytes() const;  // by tensor class, over all tapes

 private:
  struct LayerState;
  struct Tapes;
  void forward_layer(LayerState& l, const nn::Layer& layer, SegmentKind kind);
  void backward_layer(LayerState& l, SegmentKind kind);
  void forward_head();
  void finish_tape(nn::Tape& tape);
  static nn::Tape* tape_of(LayerState& l, SegmentKind kind);
  void with_weights(Segment s, bool backward, const std::function<void()>& body);

  nn::Decoder& decoder_;
  Units& units_;
  comm::Dispatcher& dispatcher_;
  Batch batch_;
  RunOptions options_;
  std::vector<Segment> segments_;
  std::vector<LayerState> layers_;
  std::unique_ptr<Tapes> tapes_;
  at::Tensor hidden_, dhidden_;
  at::Tensor aux_;  // [] fp64
  double loss_sum_ = 0;
  int64_t scored_ = 0;
};

}  // namespace conclave::parallel
