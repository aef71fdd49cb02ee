#include "parallel/micro_batch.h"

#include <ATen/ops/add.h>
#include <ATen/ops/index_select.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "nn/linear.h"
#include "ops/cross_entropy.h"
#include "ops/matmul.h"

namespace conclave::parallel {
namespace {

// The segments beside the layers' in the table of time by part.
Part part_of(SegmentKind kind) {
  using enum SegmentKind;
  if (kind == embed) return Part("embedding");
  if (kind == head) return Part("head and loss", Part::Inner::swallowed);
  if (kind == mtp_join || kind == mtp_head)
    return Part("multi-token prediction", Part::Inner::swallowed);
  return Part(nullptr);
}

// a + b, where undefined is 0.
at::Tensor plus(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() && b.defined() ? at::add(a, b) : a.defined() ? a : b;
}

// Also says what follows from where rows move.
RunOptions with_lane(RunOptions options, comm::Dispatcher& dispatcher) {
  options.experts_gradients_late = dispatcher.lane().is_open() && !options.defer_weight_gradients;
  return options;
}

at::Tensor count_scored(const at::Tensor& labels) {
  return labels.defined() ? labels.ne(ops::kIgnore).sum().view({1}) : at::Tensor();
}

}  // namespace

MicroBatch::MicroBatch(nn::Decoder& decoder, Units& units, comm::Dispatcher& dispatcher,
                       Batch batch, RunOptions options)
    : decoder_(decoder),
      units_(units),
      dispatcher_(dispatcher),
      batch_(std::move(batch)),
      options_(with_lane(std::move(options), dispatcher)),
      weights_(decoder, units, segments_, options_),
      embed_(options_.training, options_.recompute),
      head_(embed_) {
  const nn::Tape fresh = embed_;
  TORCH_CHECK(decoder.share.ends != batch_.hidden.defined(),
              "micro-batch: expected ids for a decoder with its ends, hidden states without");
  if (decoder.share.ends)
    segments_.push_back({SegmentKind::embed, -1});
  else
    hidden_ = batch_.hidden;
  const int layers = static_cast<int>(decoder.layers.size());
  for (int i = 0; i < layers; ++i) add_layer(i, batch_.rows, fresh);
  if (!decoder.share.ends) return;
  segments_.push_back({SegmentKind::head, -1});
  if (!options_.training || options_.mtp_weight == 0 || !batch_.labels.defined()) return;
  for (const nn::Mtp& module : decoder.mtp) {
    const int i = layers + static_cast<int>(mtp_.size());
    mtp_.push_back(std::make_unique<MtpRun>(decoder, module,
                                            mtp_.empty() ? batch_ : mtp_.back()->batch(), fresh));
    segments_.push_back({SegmentKind::mtp_join, i});
    add_layer(i, mtp_.back()->batch().rows, fresh);
    segments_.push_back({SegmentKind::mtp_head, i});
  }
}

void MicroBatch::add_layer(int index, const nn::Rows& rows, const nn::Tape& fresh) {
  layers_.emplace_back(decoder_.layer(static_cast<size_t>(index)), rows, dispatcher_, options_,
                       fresh);
  for (SegmentKind kind : kinds_of(*decoder_.layer(static_cast<size_t>(index)).block))
    segments_.push_back({kind, index});
}

void MicroBatch::with_weights(int index, bool backward, const std::function<void()>& body) {
  weights_.begin(index, backward);
  body();
  weights_.end(index, backward);
}

void MicroBatch::forward(int index) {
  const Segment s = segments_.at(static_cast<size_t>(index));
  const Part part = part_of(s.kind);
  with_weights(index, false, [&] {
    if (is_empty(s)) return;
    if (s.kind == SegmentKind::embed) {
      embedded_ = nn::embedding(embed_, batch_.ids, *decoder_.embedding, decoder_.padding);
      hidden_ = std::exchange(embedded_.data, {});
    } else if (s.kind == SegmentKind::head) {
      hidden_ = head_.forward(std::exchange(hidden_, {}), *decoder_.final_norm, decoder_.norm_eps,
                              *decoder_.head, batch_.labels, options_.loss_seed);
      if (batch_.labels.defined() && mtp_.empty()) hidden_.reset();
    } else if (s.kind == SegmentKind::mtp_join) {
      hidden_ = mtp_of(s).join(std::exchange(hidden_, {}));
    } else if (s.kind == SegmentKind::mtp_head) {
      const double seed =
          options_.loss_seed * options_.mtp_weight / static_cast<double>(mtp_.size());
      hidden_ = mtp_of(s).head(std::exchange(hidden_, {}), seed);
      if (&mtp_of(s) == mtp_.back().get()) hidden_.reset();
    } else {
      layer_of(s).forward(s.kind, hidden_);
    }
  });
}

at::Tensor MicroBatch::logits(const at::Tensor& positions) {
  TORCH_CHECK(hidden_.defined() && !batch_.labels.defined(),
              "logits: expected a finished forward without labels");
  at::Tensor out;
  const auto head = std::find_if(segments_.begin(), segments_.end(),
                                 [](Segment s) { return s.kind == SegmentKind::head; });
  with_weights(static_cast<int>(head - segments_.begin()), false, [&] {
    const at::Tensor rows = at::index_select(hidden_, 0, to_device(positions, hidden_.device()));
    out = ops::linear(rows, decoder_.head->data());
  });
  return out;
}

void MicroBatch::backward(int index) {
  const Segment s = segments_.at(static_cast<size_t>(index));
  const Part part = part_of(s.kind);
  with_weights(index, true, [&] {
    if (is_empty(s)) return;
    if (s.kind == SegmentKind::head) {
      dhidden_ = head_.backward(std::exchange(dhidden_, {}), options_);
    } else if (s.kind == SegmentKind::embed) {
      embed_.seed(embedded_, std::exchange(dhidden_, {}));
      finish_tape(embed_, options_);
    } else if (s.kind == SegmentKind::mtp_join) {
      dhidden_ = mtp_of(s).join_backward(std::exchange(dhidden_, {}), options_);
    } else if (s.kind == SegmentKind::mtp_head) {
      dhidden_ = mtp_of(s).head_run().backward(std::exchange(dhidden_, {}), options_);
    } else {
      layer_of(s).backward(s.kind, dhidden_);
    }
  });
}

nn::Tape* MicroBatch::tape_of(Segment s) {
  if (s.kind == SegmentKind::embed) return &embed_;
  if (s.kind == SegmentKind::head) return &head_.tape();
  if (s.kind == SegmentKind::mtp_join) return &mtp_of(s).join_tape();
  if (s.kind == SegmentKind::mtp_head) return &mtp_of(s).head_run().tape();
  return layer_of(s).tape_of(s.kind);
}

void MicroBatch::run_weight_gradients() {
  for (int i = static_cast<int>(segments_.size()) - 1; i >= 0; --i) {
    const Segment s = segments_[static_cast<size_t>(i)];
    with_weights(i, true, [&] {
      if (nn::Tape* tape = tape_of(s)) tape->run_weight_gradients();
    });
  }
}

void MicroBatch::forward() {
  for (int i = 0; i < static_cast<int>(segments_.size()); ++i) forward(i);
}

void MicroBatch::backward() {
  for (int i = static_cast<int>(segments_.size()) - 1; i >= 0; --i) backward(i);
}

const at::Tensor& MicroBatch::expert_ids(int layer) const {
  return layers_.at(static_cast<size_t>(layer)).routed().ids;
}
const at::Tensor& MicroBatch::loads(int layer) const {
  return layers_.at(static_cast<size_t>(layer)).routed().loads;
}

at::Tensor MicroBatch::scored() const { return count_scored(batch_.labels); }

at::Tensor MicroBatch::mtp_loss_sum() const {
  at::Tensor sum;
  for (const auto& m : mtp_) sum = plus(sum, m->head_run().loss_sum());
  return sum;
}

at::Tensor MicroBatch::mtp_scored() const {
  at::Tensor sum;
  for (const auto& m : mtp_) sum = plus(sum, count_scored(m->batch().labels));
  return sum;
}

at::Tensor MicroBatch::aux() const {
  at::Tensor sum;
  for (const auto& l : layers_) sum = plus(sum, l.routed().aux);
  return sum;
}

std::map<std::string, int64_t> MicroBatch::saved_bytes() const {
  std::map<std::string, int64_t> sum;
  auto count = [&](const nn::Tape& tape) {
    for (const auto& [tensor_class, bytes] : tape.saved_bytes()) sum[tensor_class] += bytes;
  };
  count(embed_);
  count(head_.tape());
  for (const auto& m : mtp_) {
    count(m->join_tape());
    count(m->head_run().tape());
  }
  for (const auto& l : layers_)
    for (const nn::Tape* tape : l.tapes()) count(*tape);
  return sum;
}

}  // namespace conclave::parallel
