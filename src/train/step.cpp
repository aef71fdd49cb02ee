#include "train/step.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/fault.h"
#include "comm/dispatch_capacity.h"
#include "nn/router.h"
#include "optim/clip.h"
#include "parallel/together.h"

namespace conclave::train {
namespace {

// Σ over ranks of a few numbers, in fp64 (counts are exact far beyond any batch). On the CPU: what
// a GPU has yet to do is not waited for.
std::vector<double> sum_over_ranks(comm::Comm& ranks, std::vector<double> numbers) {
  if (ranks.size() == 1) return numbers;
  const at::Tensor t = at::tensor(numbers, at::TensorOptions().dtype(at::kDouble));
  ranks.all_reduce(t);
  std::copy_n(t.const_data_ptr<double>(), numbers.size(), numbers.begin());
  return numbers;
}

int64_t count_scored(const at::Tensor& labels) {
  TORCH_CHECK(labels.is_cpu(), "batch: expected labels on the CPU, where they are counted, got ",
              labels.device());
  const int64_t* l = labels.const_data_ptr<int64_t>();
  return labels.numel() - std::count(l, l + labels.numel(), int64_t{-100});
}

// Adds a micro-batch's part, where there is one, to a sum [1] fp64.
void add_to(at::Tensor& sum, const at::Tensor& part) {
  if (part.defined()) sum.add_(part.view({1}));
}

// `odd` [2]: whether this rank's loss is not finite, and its number if so.
void tell_odd(const at::Tensor& loss, int rank, at::Tensor odd) {
  const at::Tensor is_odd = loss.isfinite().logical_not();
  odd.narrow(0, 0, 1).copy_(is_odd);
  odd.narrow(0, 1, 1).copy_(is_odd).mul_(rank);
}

// Adds this micro-batch's pairs to the sums by layer.
void add_loads(std::vector<at::Tensor>& sums, const nn::Decoder& decoder,
               const parallel::MicroBatch& batch) {
  for (size_t i = 0; i < sums.size(); ++i) {
    if (!decoder.layer(i).block->has_experts()) continue;
    const at::Tensor& loads = batch.loads(static_cast<int>(i));
    sums[i] = sums[i].defined() ? at::add(sums[i], loads) : loads;
  }
}

// Of a finished forward.
void add_figures(Gradients& g, const nn::Decoder& decoder, const parallel::MicroBatch& batch,
                 double mtp_weight) {
  add_to(g.loss_sum, batch.loss_sum());
  add_to(g.mtp_loss_sum, batch.mtp_loss_sum());
  if (mtp_weight != 0) add_to(g.mtp_scored, batch.mtp_scored());
  add_to(g.aux, batch.aux());
  add_loads(g.loads, decoder, batch);
}

void sum_loads_over_ranks(comm::Comm& comm, std::vector<at::Tensor>& loads) {
  if (comm.size() == 1) return;
  for (auto& sum : loads) {
    if (!sum.defined()) continue;
    sum = sum.clone();
    comm.all_reduce(sum);
  }
}

// [1] fp64: the largest share of an expert in any layer, as a multiple of the mean; 0 without
// experts or pairs.
at::Tensor max_load(const std::vector<at::Tensor>& loads, const at::Tensor& like) {
  std::vector<at::Tensor> layers;
  for (const auto& layer : loads)
    if (layer.defined() && layer.numel() > 0) layers.push_back(layer);
  if (layers.empty()) return at::zeros_like(like);
  const at::Tensor all = at::stack(layers).to(at::kDouble);  // [layers, experts]
  const auto experts = static_cast<double>(all.size(1));
  return all.amax(1).mul_(experts).div_(all.sum(1).clamp_min_(1)).amax().view({1});
}

// Every rank holds the biases and the loads of all, so all do the same. Without a finite scale the
// step is skipped: loads that are all 0 move no bias.
void correct_biases(nn::Decoder& decoder, const std::vector<at::Tensor>& loads, double rate,
                    const at::Tensor& scale) {
  if (rate == 0) return;
  const at::Tensor counts = scale.isfinite().to(at::kLong);  // [1]
  for (size_t i = 0; i < loads.size(); ++i)
    if (nn::Weight* bias = decoder.layer(i).block->correction_bias())
      nn::correct_bias(*bias, loads[i].mul(counts), rate);
}

// An event behind what the current stream of a GPU has to do.
std::shared_ptr<void> mark(at::Device device) {
  auto event = std::make_shared<c10::Event>(device.type(), c10::EventFlag::BACKEND_DEFAULT);
  event->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  return event;
}

// The numbers of a step, in the order in which they come to the host; the last three of a
// dispatcher with capacity alone.
enum Figure : size_t {
  kLoss,
  kMtpLoss,
  kAux,
  kGradNorm,
  kScale,
  kMaxLoad,
  kOdd,
  kOddRank,
  kLeftOut,
  kPeerRows,
  kExpertRows
};

}  // namespace

StepBatches on_units(parallel::Units& units, std::vector<parallel::Batch> batches) {
  std::vector<double> counts{0, 0, 0};  // scored tokens, rows, tokens
  for (const auto& b : batches) {
    counts[0] += static_cast<double>(count_scored(b.labels));
    counts[1] += static_cast<double>(b.rows.row_offsets.size() - 1);
    counts[2] += static_cast<double>(b.ids.numel());
  }
  counts = sum_over_ranks(units.comm(), counts);
  for (auto& b : batches) b = parallel::to_device(std::move(b), units.device());
  return {std::move(batches), static_cast<int64_t>(counts[0]), static_cast<int64_t>(counts[1]),
          static_cast<int64_t>(counts[2])};
}

Gradients accumulate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                     StepBatches step, const std::set<std::string>& recompute, double mtp_weight,
                     int at_once) {
  parallel::RunOptions run{.training = true, .recompute = recompute};
  run.loss_seed = 1 / static_cast<double>(std::max<int64_t>(step.scored, 1));
  run.mtp_weight = mtp_weight;

  units.zero_grads();
  // Of loss, aux, mtp_loss, mtp_scored and the odd ranks: beside each other, so that ranks add them
  // up at once. With a capacity there is a place for the load on each rank behind them.
  comm::CapacityDispatcher* fixed = dispatcher.with_capacity();
  const int64_t ranks = units.comm().size(), loads = fixed ? 2 * ranks : 0;
  at::Tensor sums =
      at::zeros({6 + loads}, at::TensorOptions().dtype(at::kDouble).device(units.device()));
  Gradients g{.loss_sum = sums.narrow(0, 0, 1),
              .mtp_loss_sum = sums.narrow(0, 2, 1),
              .mtp_scored = sums.narrow(0, 3, 1),
              .aux = sums.narrow(0, 1, 1),
              .odd = sums.narrow(0, 4, 2)};
  const bool poisoned = nan_point("train.accumulate");
  if (poisoned) run.loss_seed = std::numeric_limits<double>::quiet_NaN();
  g.loads.resize(decoder.layers.size() + (mtp_weight != 0 ? decoder.mtp.size() : 0));
  const size_t count = step.batches.size();
  const auto micro_batch = [&](size_t i) {
    parallel::Batch& b = step.batches[i];
    b.rows.aux_seed = 1 / static_cast<double>(step.rows);
    b.rows.token_seed = 1 / static_cast<double>(step.tokens);
    run.last = i + 1 == count;
    return std::make_unique<parallel::MicroBatch>(decoder, units, dispatcher, std::move(b), run);
  };
  const auto add = [&](const parallel::MicroBatch& batch) {
    add_figures(g, decoder, batch, mtp_weight);
  };
  for (size_t i = 0; i < count; ++i) {
    const auto batch = micro_batch(i);
    if (at_once == 2 && i + 1 < count) {
      const auto other = micro_batch(++i);
      parallel::forward_together(*batch, *other);
      add(*batch), add(*other);
      parallel::backward_together(*batch, *other);
    } else {
      batch->forward();
      add(*batch);
      batch->backward();
    }
  }
  if (poisoned) g.loss_sum.fill_(run.loss_seed);
  units.reduce_grads();
  if (fixed) sums.narrow(0, 6 + 2 * units.comm().rank(), 2).copy_(fixed->take_load());
  if (ranks > 1) {
    tell_odd(at::add(g.loss_sum, g.mtp_loss_sum), units.comm().rank(), g.odd);
    units.comm().all_reduce(sums);
  }
  if (fixed) g.load = sums.narrow(0, 6, loads).view({ranks, 2}).amax(0);
  sum_loads_over_ranks(units.comm(), g.loads);
  g.max_load = max_load(g.loads, g.loss_sum);
  g.scored = step.scored;
  return g;
}

at::Tensor launch_step(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                       optim::AdamW& optimizer, StepBatches batches, const at::Tensor& lr,
                       const StepOptions& options) {
  const Gradients g = accumulate(decoder, units, dispatcher, std::move(batches), options.recompute,
                                 options.mtp_weight, options.at_once);
  const at::Tensor loss = g.loss_sum.div(static_cast<double>(std::max<int64_t>(g.scored, 1))),
                   mtp_loss = g.mtp_loss_sum.div(g.mtp_scored.clamp_min(1)),
                   squares = units.squared_gradient_norm();
  // Not a number where the step is to be skipped.
  at::Tensor scale = optim::clip_scale(squares, at::add(loss, mtp_loss), options.clip_norm);
  at::Tensor left_out;
  if (g.load.defined()) {
    left_out = dispatcher.with_capacity()->left_out(g.load);
    scale = scale.masked_fill(left_out.gt(0), std::numeric_limits<double>::quiet_NaN());
  }
  optimizer.step(lr, scale);
  correct_biases(decoder, g.loads, options.bias_rate, scale);
  units.weights_changed();
  std::vector<at::Tensor> figures(kLeftOut);
  figures[kLoss] = loss;
  figures[kMtpLoss] = mtp_loss;
  figures[kAux] = g.aux;
  figures[kGradNorm] = squares.sqrt();
  figures[kScale] = scale;
  figures[kMaxLoad] = g.max_load;
  figures[kOdd] = g.odd;  // two
  figures.erase(figures.begin() + kOddRank);
  if (g.load.defined()) figures.insert(figures.end(), {left_out, g.load});
  return at::cat(figures);
}

StepStart::StepStart(at::Device device) {
  if (device.is_cuda()) event_ = mark(device);
}

StepFigures::StepFigures(const at::Tensor& numbers, int64_t scored, const StepStart& start)
    : host_(numbers), start_(start.event_), scored_(scored) {
  if (numbers.is_cpu()) {
    seconds_ = start.timer_.seconds();
    return;
  }
  host_ = at::empty(numbers.sizes(), at::TensorOptions().dtype(at::kDouble).pinned_memory(true));
  host_.copy_(numbers, /*non_blocking=*/true);
  done_ = mark(numbers.device());
}

StepResult StepFigures::wait() const {
  TORCH_CHECK(host_.defined(), "step: expected figures of a step that was launched");
  double seconds = seconds_;
  if (done_) {
    const auto& done = *static_cast<const c10::Event*>(done_.get());
    done.synchronize();
    seconds = static_cast<const c10::Event*>(start_.get())->elapsedTime(done) / 1000;
  }
  const double* n = host_.const_data_ptr<double>();
  StepResult r{.loss = n[kLoss],
               .mtp_loss = n[kMtpLoss],
               .aux = n[kAux],
               .grad_norm = n[kGradNorm],
               .scored = scored_,
               .skipped = !std::isfinite(n[kScale]),
               .max_load = n[kMaxLoad],
               .odd_ranks = static_cast<int>(n[kOdd]),
               .odd_rank = static_cast<int>(n[kOddRank]),
               .seconds = seconds};
  if (host_.numel() == kLeftOut) return r;
  r.left_out = n[kLeftOut] > 0;
  r.load = {static_cast<int64_t>(n[kPeerRows]), static_cast<int64_t>(n[kExpertRows])};
  return r;
}

StepFigures step(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                 optim::AdamW& optimizer, std::vector<parallel::Batch> batches,
                 const StepOptions& options) {
  const StepStart start(units.device());
  StepBatches here = on_units(units, std::move(batches));
  const int64_t scored = here.scored;
  const at::Tensor lr =
      at::full({1}, options.lr, at::TensorOptions().dtype(at::kDouble).device(units.device()));
  return {launch_step(decoder, units, dispatcher, optimizer, std::move(here), lr, options), scored,
          start};
}

Evaluation evaluate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                    parallel::Batch batch) {
  const int64_t scored = count_scored(batch.labels);
  parallel::MicroBatch micro(decoder, units, dispatcher,
                             parallel::to_device(std::move(batch), units.device()),
                             {.training = false});
  micro.forward();
  return {micro.loss_sum(), scored};
}

}  // namespace conclave::train
