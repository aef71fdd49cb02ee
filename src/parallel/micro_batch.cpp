#include "parallel/micro_batch.h"

#include <ATen/ops/add.h>
#include <ATen/ops/index_select.h>
#include <c10/util/Exception.h>

#include <utility>

#include "nn/linear.h"
#include "nn/norm.h"
#include "ops/cross_entropy.h"
#include "ops/matmul.h"

namespace conclave::parallel {

using nn::Tape;
using nn::Value;

// What one layer carries between its segments. Values keep their gradient's slot; their data is
// dropped once it was passed on.
struct MicroBatch::LayerState {
  explicit LayerState(const Tape& fresh) : mix(fresh), route(fresh), experts(fresh), join(fresh) {}
  Tape mix, route, experts, join;
  Value mix_in, mix_out, route_in, rows, weights, experts_out, join_h, join_combined, out;
  nn::Routed routed;
  comm::Dispatch layout;
  at::Tensor combined;       // from combine to join
  at::Tensor dh, dcombined;  // gradients that join leaves for mix and combine
  at::Tensor dexperts_out, drows, dweights, dx, drouting;
};

struct MicroBatch::Tapes {
  Tape embed, head;
  Value embedded, head_in, head_out;
};

MicroBatch::MicroBatch(nn::Decoder& decoder, Units& units, comm::Dispatcher& dispatcher,
                       Batch batch, RunOptions options)
    : decoder_(decoder),
      units_(units),
      dispatcher_(dispatcher),
      batch_(std::move(batch)),
      options_(std::move(options)) {
  const Tape tape(options_.training, options_.recompute);
  tapes_ = std::make_unique<Tapes>(Tapes{tape, tape, {}, {}, {}});
  segments_.push_back({SegmentKind::embed, -1});
  for (int i = 0; i < static_cast<int>(decoder.layers.size()); ++i) {
    using enum SegmentKind;
    layers_.emplace_back(tape);
    segments_.push_back({mix, i});
    if (decoder.layers[static_cast<size_t>(i)].block->has_experts())
      for (auto kind : {route, dispatch, experts, combine, join}) segments_.push_back({kind, i});
    else
      segments_.push_back({feed_forward, i});
  }
  segments_.push_back({SegmentKind::head, -1});
}

MicroBatch::~MicroBatch() = default;

// Runs `body` with the weights of a segment gathered, and releases them after.
void MicroBatch::with_weights(Segment s, bool backward, const std::function<void()>& body) {
  nn::Unit *first = nullptr, *second = nullptr;
  if (s.kind == SegmentKind::embed) first = decoder_.embedding_unit;
  if (s.kind == SegmentKind::head) first = decoder_.final_unit, second = decoder_.head_unit;
  if (s.layer >= 0) {
    auto& layer = decoder_.layers[static_cast<size_t>(s.layer)];
    if (s.kind == SegmentKind::experts) {
      first = layer.experts;
      // Rows are dispatched again from the router's norm, made again with its weight.
      if (backward && options_.recompute.count("dispatch") && options_.recompute.count("norm"))
        second = layer.dense;
    } else if (s.kind != SegmentKind::dispatch && s.kind != SegmentKind::combine) {
      first = layer.dense;
    }
  }
  units_.gather(first);
  units_.gather(second);
  body();
  units_.release(first);
  units_.release(second);
}

void MicroBatch::forward(int index) {
  const Segment s = segments_.at(static_cast<size_t>(index));
  with_weights(s, false, [&] {
    if (s.kind == SegmentKind::embed) {
      tapes_->embedded =
          nn::embedding(tapes_->embed, batch_.ids, *decoder_.embedding, decoder_.padding);
      hidden_ = std::exchange(tapes_->embedded.data, {});
    } else if (s.kind == SegmentKind::head) {
      forward_head();
    } else {
      forward_layer(layers_[static_cast<size_t>(s.layer)],
                    decoder_.layers[static_cast<size_t>(s.layer)], s.kind);
    }
  });
}

void MicroBatch::forward_layer(LayerState& l, const nn::Layer& layer, SegmentKind kind) {
  auto pass_on = [](Value& v) { return std::exchange(v.data, {}); };
  switch (kind) {
    case SegmentKind::mix:
      l.mix_in = l.mix.input(hidden_);
      l.mix_out = layer.block->mix(l.mix, l.mix_in, batch_.rows);
      l.mix_in.data.reset();
      hidden_ = pass_on(l.mix_out);
      break;
    case SegmentKind::feed_forward:
      l.join_h = l.join.input(hidden_);
      l.out = layer.block->feed_forward(l.join, l.join_h);
      l.join_h.data.reset();
      hidden_ = pass_on(l.out);
      break;
    case SegmentKind::route:
      l.route_in = l.route.input(hidden_);
      l.routed = layer.block->route(l.route, l.route_in, batch_.rows);
      l.route_in.data.reset();
      if (l.routed.aux.defined())
        aux_ = aux_.defined() ? at::add(aux_, l.routed.aux) : l.routed.aux;
      break;
    case SegmentKind::dispatch: {
      l.layout = dispatcher_.prepare(l.routed.ids, layer.facts.experts);
      l.rows = l.experts.input(dispatcher_.dispatch(l.layout, l.routed.x.data));
      l.weights = l.experts.input(dispatcher_.dispatch_weights(l.layout, l.routed.weights.data));
      l.weights.tensor_class = "router";
      // Made again with the saved layout, from what the router kept.
      nn::Saved x = l.route.save(l.routed.x);
      l.rows.made_again_by("dispatch", [this, x, layout = l.layout] {
        return dispatcher_.dispatch(layout, x.get());
      });
      l.routed.x.data.reset();
      l.routed.weights.data.reset();
      l.routed.x.recipe = nullptr;
      break;
    }
    case SegmentKind::experts:
      l.experts_out = layer.block->experts(l.experts, {l.rows, l.weights, l.layout.offsets});
      l.rows.data.reset();
      l.weights.data.reset();
      l.rows.recipe = nullptr;
      break;
    case SegmentKind::combine:
      l.combined = dispatcher_.combine(l.layout, l.experts_out.data);
      l.experts_out.data.reset();
      l.experts_out.recipe = nullptr;
      break;
    case SegmentKind::join:
      l.join_h = l.join.input(hidden_);
      l.join_combined = l.join.input(std::exchange(l.combined, {}));
      l.out = layer.block->join(l.join, l.join_h, l.join_combined);
      l.join_h.data.reset();
      l.join_combined.data.reset();
      hidden_ = pass_on(l.out);
      break;
    default:
      break;
  }
}

void MicroBatch::forward_head() {
  Tape& tape = tapes_->head;
  tapes_->head_in = tape.input(std::exchange(hidden_, {}));
  Value normed = nn::rms_norm(tape, tapes_->head_in, *decoder_.final_norm, decoder_.norm_eps);
  tapes_->head_in.data.reset();
  if (!batch_.labels.defined()) {
    hidden_ = normed.data;
    return;
  }
  // Loss and both gradients in one pass over chunks of logits: the seed is known, so nothing of
  // them needs to be kept.
  at::Tensor dw = options_.training ? decoder_.head->grad() : at::Tensor();
  auto loss = ops::linear_cross_entropy(normed.data, decoder_.head->data(), batch_.labels,
                                        options_.loss_seed, dw);
  loss_sum_ = loss.loss_sum;
  scored_ = loss.scored;
  if (options_.training) tape.add_grad(normed.id, loss.dx);
}

at::Tensor MicroBatch::logits(const at::Tensor& positions) {
  TORCH_CHECK(hidden_.defined() && !batch_.labels.defined(),
              "logits: expected a finished forward without labels");
  at::Tensor out;
  with_weights({SegmentKind::head, -1}, false, [&] {
    out = ops::linear(at::index_select(hidden_, 0, positions), decoder_.head->data());
  });
  return out;
}

void MicroBatch::finish_tape(Tape& tape) {
  tape.run_backward();
  if (!options_.defer_weight_gradients) tape.run_weight_gradients();
}

void MicroBatch::backward(int index) {
  const Segment s = segments_.at(static_cast<size_t>(index));
  with_weights(s, true, [&] {
    if (s.kind == SegmentKind::head) {
      finish_tape(tapes_->head);
      dhidden_ = tapes_->head.take_grad(tapes_->head_in);
    } else if (s.kind == SegmentKind::embed) {
      tapes_->embed.seed(tapes_->embedded, std::exchange(dhidden_, {}));
      finish_tape(tapes_->embed);
    } else {
      backward_layer(layers_[static_cast<size_t>(s.layer)], s.kind);
    }
  });
}

void MicroBatch::backward_layer(LayerState& l, SegmentKind kind) {
  switch (kind) {
    case SegmentKind::feed_forward:
      l.join.seed(l.out, std::exchange(dhidden_, {}));
      finish_tape(l.join);
      dhidden_ = l.join.take_grad(l.join_h);
      break;
    case SegmentKind::join:
      l.join.seed(l.out, std::exchange(dhidden_, {}));
      finish_tape(l.join);
      l.dh = l.join.take_grad(l.join_h);
      l.dcombined = l.join.take_grad(l.join_combined);
      break;
    case SegmentKind::combine:
      l.dexperts_out = dispatcher_.dispatch(l.layout, std::exchange(l.dcombined, {}));
      break;
    case SegmentKind::experts:
      l.experts.seed(l.experts_out, std::exchange(l.dexperts_out, {}));
      finish_tape(l.experts);
      l.drows = l.experts.take_grad(l.rows);
      l.dweights = l.experts.take_grad(l.weights);
      break;
    case SegmentKind::dispatch:
      l.dx = dispatcher_.combine(l.layout, std::exchange(l.drows, {}));
      l.drouting = dispatcher_.combine_weights(l.layout, std::exchange(l.dweights, {}));
      break;
    case SegmentKind::route:
      l.route.seed(l.routed.x, std::exchange(l.dx, {}));
      l.route.seed(l.routed.weights, std::exchange(l.drouting, {}));
      finish_tape(l.route);
      dhidden_ = std::exchange(l.dh, {}).add(l.route.take_grad(l.route_in));
      break;
    case SegmentKind::mix:
      l.mix.seed(l.mix_out, std::exchange(dhidden_, {}));
      finish_tape(l.mix);
      dhidden_ = l.mix.take_grad(l.mix_in);
      break;
    default:
      break;
  }
}

void MicroBatch::run_weight_gradients() {
  for (int i = static_cast<int>(segments_.size()) - 1; i >= 0; --i) {
    const Segment s = segments_[static_cast<size_t>(i)];
    with_weights(s, true, [&] {
      if (s.kind == SegmentKind::embed)
        tapes_->embed.run_weight_gradients();
      else if (s.kind == SegmentKind::head)
        tapes_->head.run_weight_gradients();
      else if (Tape* tape = tape_of(layers_[static_cast<size_t>(s.layer)], s.kind))
        tape->run_weight_gradients();
    });
  }
}

Tape* MicroBatch::tape_of(LayerState& l, SegmentKind kind) {
  switch (kind) {
    case SegmentKind::mix:
      return &l.mix;
    case SegmentKind::route:
      return &l.route;
    case SegmentKind::experts:
      return &l.experts;
    case SegmentKind::join:
    case SegmentKind::feed_forward:
      return &l.join;
    default:
      return nullptr;
  }
}

void MicroBatch::forward() {
  for (int i = 0; i < static_cast<int>(segments_.size()); ++i) forward(i);
}

void MicroBatch::backward() {
  for (int i = static_cast<int>(segments_.size()) - 1; i >= 0; --i) backward(i);
}

double MicroBatch::aux() const { return aux_.defined() ? aux_.item<double>() : 0; }

const at::Tensor& MicroBatch::expert_ids(int layer) const {
  return layers_.at(static_cast<size_t>(layer)).routed.ids;
}
const at::Tensor& MicroBatch::loads(int layer) const {
  return layers_.at(static_cast<size_t>(layer)).routed.loads;
}

std::map<std::string, int64_t> MicroBatch::saved_bytes() const {
  std::map<std::string, int64_t> sum = tapes_->embed.saved_bytes();
  auto count = [&](const Tape& tape) {
    for (const auto& [tensor_class, bytes] : tape.saved_bytes()) sum[tensor_class] += bytes;
  };
  count(tapes_->head);
  for (const auto& l : layers_)
    for (const Tape* tape : {&l.mix, &l.route, &l.experts, &l.join}) count(*tape);
  return sum;
}

}  // namespace conclave::parallel
