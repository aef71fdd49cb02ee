#include "parallel/dry_step.h"

#include <ATen/ops/empty.h>

#include <vector>

#include "parallel/segment_weights.h"

namespace conclave::parallel {
namespace {

// One layer's dispatches of one micro-batch.
class DryLayer {
 public:
  DryLayer(const nn::Layer& layer, int64_t tokens, int64_t hidden, at::ScalarType dtype,
           comm::Dispatcher& dispatcher, const RunOptions& run)
      : layer_(layer), dispatcher_(dispatcher), run_(run) {
    const auto meta = at::TensorOptions().device(at::kMeta);
    x_ = at::empty({tokens, hidden}, meta.dtype(dtype));
    const int64_t top_k = layer.facts.top_k;
    ids_ = at::empty({tokens, top_k}, meta.dtype(at::kLong));
    weights_ = at::empty({tokens, top_k}, meta.dtype(dtype == at::kDouble ? dtype : at::kFloat));
  }

  void forward(SegmentKind kind) {
    if (kind == SegmentKind::dispatch) {
      to_ = dispatcher_.prepare(ids_, layer_.facts.experts);
      rows_ = dispatcher_.dispatch(to_, x_);
      row_weights_ = dispatcher_.dispatch_weights(to_, weights_);
    } else if (kind == SegmentKind::combine) {
      dispatcher_.combine(to_, rows_);
    }
  }
  void backward(SegmentKind kind) {
    if (kind == SegmentKind::combine) {
      dispatcher_.dispatch(to_, x_);
    } else if (kind == SegmentKind::experts) {
      if (run_.recompute.count("dispatch")) dispatcher_.dispatch(to_, x_);
    } else if (kind == SegmentKind::dispatch) {
      dispatcher_.combine(to_, rows_);
      dispatcher_.combine_weights(to_, row_weights_);
    }
  }

 private:
  const nn::Layer& layer_;
  comm::Dispatcher& dispatcher_;
  const RunOptions& run_;
  comm::Dispatch to_;
  at::Tensor x_, ids_, weights_, rows_, row_weights_;
};

std::vector<Segment> segments_of(const nn::Decoder& decoder, const RunOptions& run) {
  std::vector<Segment> out{{SegmentKind::embed, -1}};
  const auto add_layer = [&](size_t i) {
    for (SegmentKind kind : kinds_of(*decoder.layer(i).block))
      out.push_back({kind, static_cast<int>(i)});
  };
  for (size_t i = 0; i < decoder.layers.size(); ++i) add_layer(i);
  out.push_back({SegmentKind::head, -1});
  for (size_t i = decoder.layers.size();
       run.mtp_weight != 0 && i < decoder.layers.size() + decoder.mtp.size(); ++i) {
    out.push_back({SegmentKind::mtp_join, static_cast<int>(i)});
    add_layer(i);
    out.push_back({SegmentKind::mtp_head, static_cast<int>(i)});
  }
  return out;
}

void dry_micro_batch(nn::Decoder& decoder, Units& units, comm::Dispatcher& dispatcher,
                     const DryStep& step, bool last) {
  RunOptions run = step.run;
  run.last = last;
  std::vector<DryLayer> layers;
  for (size_t i = 0; i < decoder.layers.size() + decoder.mtp.size(); ++i)
    layers.emplace_back(decoder.layer(i), step.tokens, decoder.hidden,
                        decoder.embedding_unit->dtype(), dispatcher, run);
  const std::vector<Segment> segments = segments_of(decoder, run);
  SegmentWeights weights(decoder, units, segments, run);
  const auto with_weights = [&](int index, bool backward, const auto& body) {
    const Segment s = segments[static_cast<size_t>(index)];
    weights.begin(index, backward);
    if (s.layer >= 0) body(layers[static_cast<size_t>(s.layer)], s.kind);
    weights.end(index, backward);
  };
  const int count = static_cast<int>(segments.size());
  for (int i = 0; i < count; ++i)
    with_weights(i, false, [](DryLayer& layer, SegmentKind kind) { layer.forward(kind); });
  for (int i = count; i-- > 0;)
    with_weights(i, true, [](DryLayer& layer, SegmentKind kind) { layer.backward(kind); });
}

}  // namespace

void dry_step(nn::Decoder& decoder, Units& units, comm::Dispatcher& dispatcher,
              const DryStep& step) {
  comm::Comm& world = units.comm();
  const auto sum = [&](int64_t numbers, at::ScalarType dtype) {
    if (world.size() > 1)
      world.all_reduce(
          at::empty({numbers}, at::TensorOptions().dtype(dtype).device(units.device())));
  };
  sum(3, at::kDouble);  // scored tokens, rows, tokens
  for (int64_t i = 0; i < step.micro_batches; ++i)
    dry_micro_batch(decoder, units, dispatcher, step, i + 1 == step.micro_batches);
  units.reduce_grads();
  sum(6 + (step.capacity ? 2 * world.size() : 0), at::kDouble);  // losses, odd ranks; loads
  const size_t modules = step.run.mtp_weight != 0 ? decoder.mtp.size() : 0;
  for (size_t i = 0; i < decoder.layers.size() + modules; ++i)
    if (decoder.layer(i).block->has_experts()) sum(decoder.layer(i).facts.experts, at::kLong);
  sum(1, at::kDouble);  // the gradients' norm
  units.weights_changed();
}

}  // namespace conclave::parallel
