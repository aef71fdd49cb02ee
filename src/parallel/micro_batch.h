// One micro-batch on its way through a decoder: a list of segments, each with a forward and a
// backward, that a schedule runs in the order it likes between several micro-batches. Compute
// segments leave a tape each; dispatch and combine are steps of their own.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/dispatch.h"
#include "nn/decoder.h"
#include "parallel/head_run.h"
#include "parallel/layer_run.h"
#include "parallel/mtp_run.h"
#include "parallel/segment_weights.h"
#include "parallel/units.h"

namespace conclave::parallel {

class MicroBatch {
 public:
  MicroBatch(nn::Decoder& decoder, Units& units, comm::Dispatcher& dispatcher, Batch batch,
             RunOptions options);
  MicroBatch(const MicroBatch&) = delete;

  // embed; per layer mix, route, dispatch, shared, experts, combine, join (without a shared expert
  // no shared) or mix, feed_forward; head; per module of multi-token prediction mtp_join, its
  // layer's, mtp_head.
  const std::vector<Segment>& segments() const { return segments_; }
  void forward(int segment);    // ascending
  void backward(int segment);   // descending, after the forward of all
  void run_weight_gradients();  // those that defer_weight_gradients left

  // All of the above in order.
  void forward();
  void backward();

  // Of a finished forward, on the units' device; undefined where there is none: without labels,
  // without modules of multi-token prediction, without such losses.
  at::Tensor loss_sum() const {
    return head_.loss_sum();
  }                                 // [1] fp64: Σ over scored positions, nats
  at::Tensor scored() const;        // [1] int64: how many
  at::Tensor mtp_loss_sum() const;  // the same over the modules of multi-token prediction
  at::Tensor mtp_scored() const;
  at::Tensor aux() const;  // [] fp64: this micro-batch's part of the routers' losses
  // [tokens, hidden], and fewer tokens in a module: after the last forward segment; without labels
  // the head leaves the normed states here.
  at::Tensor hidden() const { return hidden_; }
  // Without the decoder's ends: the gradient of hidden() from the next pipeline rank, before
  // backward, and that for the rank before, after it.
  void seed(at::Tensor dhidden) { dhidden_ = std::move(dhidden); }
  at::Tensor dhidden() const { return dhidden_; }
  at::Tensor logits(const at::Tensor& positions);  // [n, vocab] of these positions of a finished
                                                   // forward; inference
  const at::Tensor& expert_ids(int layer) const;   // [tokens, top_k]; undefined for a dense layer
  const at::Tensor& loads(int layer) const;        // [experts] int64
  std::map<std::string, int64_t> saved_bytes() const;  // by tensor class, over all tapes

 private:
  LayerRun& layer_of(Segment s) { return layers_[static_cast<size_t>(s.layer)]; }
  MtpRun& mtp_of(Segment s) { return *mtp_[static_cast<size_t>(s.layer) - decoder_.layers.size()]; }
  // Of a module that no document of this micro-batch is long enough for. Its weights are gathered
  // nonetheless: another rank may need them. Among several expert ranks it runs, with no token: its
  // experts may get those of others.
  bool is_empty(Segment s) const {
    const auto layer = static_cast<size_t>(s.layer), layers = decoder_.layers.size();
    return dispatcher_.ranks() == 1 && s.layer >= 0 && layer >= layers &&
           mtp_[layer - layers]->batch().ids.numel() == 0;
  }
  void add_layer(int index, const nn::Rows& rows, const nn::Tape& fresh);
  nn::Tape* tape_of(Segment s);
  void with_weights(int index, bool backward, const std::function<void()>& body);

  nn::Decoder& decoder_;
  Units& units_;
  comm::Dispatcher& dispatcher_;
  const Batch batch_;
  const RunOptions options_;
  std::vector<Segment> segments_;
  SegmentWeights weights_;
  nn::Tape embed_;
  nn::Value embedded_;
  std::vector<LayerRun> layers_;
  HeadRun head_;
  std::vector<std::unique_ptr<MtpRun>> mtp_;
  at::Tensor hidden_, dhidden_;
};

}  // namespace conclave::parallel
