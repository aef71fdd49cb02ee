#include "parallel/layer_run.h"

#include <ATen/ops/zeros.h>

#include <utility>

namespace conclave::parallel {

using nn::Value;

namespace {

// What a segment counts as in the table of time by part, beside what its layers name themselves.
Part part_of(SegmentKind kind) {
  switch (kind) {
    case SegmentKind::dispatch:
      return Part("dispatch");
    case SegmentKind::combine:
      return Part("combine");
    case SegmentKind::shared:
      return Part("shared experts", Part::Inner::swallowed);
    case SegmentKind::feed_forward:
      return Part("dense layers", Part::Inner::swallowed);
    default:
      return Part("residual");
  }
}

}  // namespace

LayerRun::LayerRun(const nn::Layer& layer, const nn::Rows& rows, comm::Dispatcher& dispatcher,
                   const RunOptions& options, const nn::Tape& fresh)
    : layer_(layer),
      rows_(rows),
      dispatcher_(dispatcher),
      options_(options),
      mix_(fresh),
      route_(fresh),
      shared_(fresh),
      experts_(fresh),
      join_(fresh) {
  if (rows.positions.defined() && rows.positions.numel() == 0)  // no segment will run
    routed_.loads = at::zeros({layer.facts.experts}, rows.positions.options());
}

void LayerRun::dispatch() {
  layout_ = dispatcher_.prepare(routed_.ids, layer_.facts.experts);
  at::Tensor rows, weights;
  rows_on_way_ = dispatcher_.lane().start(
      [&] {
        rows = dispatcher_.dispatch(layout_, routed_.x.data);
        weights = dispatcher_.dispatch_weights(layout_, routed_.weights.data);
      },
      {routed_.x.data, routed_.weights.data});
  received_ = experts_.input(std::move(rows));
  weights_ = experts_.input(std::move(weights), "router");
  // Made again with the saved layout, from what the router kept.
  nn::Saved x = route_.save(routed_.x);
  received_.made_again_by("dispatch", [&dispatcher = dispatcher_, x, layout = layout_] {
    return dispatcher.dispatch(layout, x.get());
  });
  if (layer_.block->has_shared_expert()) {
    // The same tensor, or the same recipe, as the router and the dispatch keep.
    shared_in_ = shared_.input(routed_.x.data, routed_.x.tensor_class);
    shared_in_.recipe = routed_.x.recipe;
    shared_.counted_elsewhere(shared_in_.data);
  }
  routed_.x.data.reset();
  routed_.weights.data.reset();
  routed_.x.recipe = nullptr;
}

void LayerRun::finish_combine() {
  const Part part("combine");
  rows_on_way_.wait();
  if (shared_out_.data.defined()) combined_.add_(std::exchange(shared_out_.data, {}));
  shared_out_.recipe = nullptr;
}

void LayerRun::backward_dispatch() {
  const at::Tensor rows = std::exchange(dreceived_, {}), weights = std::exchange(dweights_, {});
  rows_on_way_ = dispatcher_.lane().start(
      [&] {
        dx_ = dispatcher_.combine(layout_, rows);
        drouting_ = dispatcher_.combine_weights(layout_, weights);
      },
      {rows, weights});
  if (options_.experts_gradients_late) experts_.run_weight_gradients();
}

void LayerRun::backward_shared() {
  const Part part = part_of(SegmentKind::shared);
  shared_.seed(shared_out_, std::exchange(dshared_out_, {}));
  finish_tape(shared_, options_);
}

void LayerRun::forward(SegmentKind kind, at::Tensor& hidden) {
  const Part part = part_of(kind);
  auto pass_on = [](Value& v) { return std::exchange(v.data, {}); };
  nn::Block& block = *layer_.block;
  switch (kind) {
    case SegmentKind::mix:
      mix_in_ = mix_.input(hidden, "residual");
      mix_out_ = block.mix(mix_, mix_in_, rows_);
      mix_in_.data.reset();
      hidden = pass_on(mix_out_);
      break;
    case SegmentKind::feed_forward:
      join_h_ = join_.input(hidden, "residual");
      out_ = block.feed_forward(join_, join_h_);
      join_h_.data.reset();
      hidden = pass_on(out_);
      break;
    case SegmentKind::route:
      route_in_ = route_.input(hidden, "residual");
      routed_ = block.route(route_, route_in_, rows_);
      route_in_.data.reset();
      break;
    case SegmentKind::dispatch:
      dispatch();
      break;
    case SegmentKind::shared:
      shared_out_ = block.shared(shared_, shared_in_);
      shared_in_.data.reset();
      shared_in_.recipe = nullptr;
      break;
    case SegmentKind::experts:
      rows_on_way_.wait();
      experts_out_ = block.experts(experts_, {received_, weights_, layout_.offsets});
      received_.data.reset();
      weights_.data.reset();
      received_.recipe = nullptr;
      break;
    case SegmentKind::combine:
      rows_on_way_ = dispatcher_.lane().start(
          [&] { combined_ = dispatcher_.combine(layout_, experts_out_.data); },
          {experts_out_.data});
      experts_out_.data.reset();
      experts_out_.recipe = nullptr;
      break;
    case SegmentKind::join:
      finish_combine();
      join_h_ = join_.input(hidden, "residual");
      join_combined_ = join_.input(std::exchange(combined_, {}));
      out_ = block.join(join_, join_h_, join_combined_);
      join_h_.data.reset();
      join_combined_.data.reset();
      hidden = pass_on(out_);
      break;
    default:
      break;
  }
}

void LayerRun::backward(SegmentKind kind, at::Tensor& dhidden) {
  const Part part = part_of(kind);
  comm::Lane& lane = dispatcher_.lane();
  switch (kind) {
    case SegmentKind::feed_forward:
      join_.seed(out_, std::exchange(dhidden, {}));
      finish_tape(join_, options_);
      dhidden = join_.take_grad(join_h_);
      break;
    case SegmentKind::join:
      join_.seed(out_, std::exchange(dhidden, {}));
      finish_tape(join_, options_);
      dh_ = join_.take_grad(join_h_);
      dcombined_ = join_.take_grad(join_combined_);
      break;
    case SegmentKind::combine:
      rows_on_way_ = lane.start([&] { dexperts_out_ = dispatcher_.dispatch(layout_, dcombined_); },
                                {dcombined_});
      if (layer_.block->has_shared_expert()) dshared_out_ = dcombined_;
      dcombined_.reset();
      if (lane.is_open() && dshared_out_.defined()) backward_shared();
      break;
    case SegmentKind::experts:
      rows_on_way_.wait();
      experts_.seed(experts_out_, std::exchange(dexperts_out_, {}));
      if (options_.experts_gradients_late)
        experts_.run_backward();
      else
        finish_tape(experts_, options_);
      dreceived_ = experts_.take_grad(received_);
      dweights_ = experts_.take_grad(weights_);
      break;
    case SegmentKind::shared:
      if (!lane.is_open()) backward_shared();
      break;
    case SegmentKind::dispatch:
      backward_dispatch();
      break;
    case SegmentKind::route:
      rows_on_way_.wait();
      route_.seed(route_in_, std::exchange(dh_, {}));  // to be added where the norm's comes
      route_.seed(routed_.x, std::exchange(dx_, {}), /*own=*/true);
      if (layer_.block->has_shared_expert()) route_.seed(routed_.x, shared_.take_grad(shared_in_));
      route_.seed(routed_.weights, std::exchange(drouting_, {}));
      finish_tape(route_, options_);
      dhidden = route_.take_grad(route_in_);
      break;
    case SegmentKind::mix:
      mix_.seed(mix_out_, std::exchange(dhidden, {}));
      finish_tape(mix_, options_);
      dhidden = mix_.take_grad(mix_in_);
      break;
    default:
      break;
  }
}

nn::Tape* LayerRun::tape_of(SegmentKind kind) {
  switch (kind) {
    case SegmentKind::mix:
      return &mix_;
    case SegmentKind::route:
      return &route_;
    case SegmentKind::shared:
      return &shared_;
    case SegmentKind::experts:
      return &experts_;
    case SegmentKind::join:
    case SegmentKind::feed_forward:
      return &join_;
    default:
      return nullptr;
  }
}

}  // namespace conclave::parallel
