#include "train/step.h"

#include <ATen/ops/add.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>

#include "nn/router.h"

namespace conclave::train {
namespace {

// Σ over ranks of a few numbers, in fp64 (counts are exact far beyond any batch).
std::vector<double> sum_over_ranks(comm::Comm& comm, std::vector<double> numbers) {
  if (comm.size() == 1) return numbers;
  at::Tensor t = at::tensor(numbers, at::TensorOptions().dtype(at::kDouble));
  comm.all_reduce(t);
  std::copy_n(t.const_data_ptr<double>(), numbers.size(), numbers.begin());
  return numbers;
}

double number(const at::Tensor& t) { return t.defined() ? t.item().toDouble() : 0; }

int64_t count_scored(const at::Tensor& labels) {
  const int64_t* l = labels.const_data_ptr<int64_t>();
  return labels.numel() - std::count(l, l + labels.numel(), int64_t{-100});
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

void sum_loads_over_ranks(comm::Comm& comm, std::vector<at::Tensor>& loads) {
  if (comm.size() == 1) return;
  for (auto& sum : loads) {
    if (!sum.defined()) continue;
    sum = sum.clone();
    comm.all_reduce(sum);
  }
}

double max_load(const std::vector<at::Tensor>& loads) {
  double most = 0;
  for (const auto& layer : loads) {
    if (!layer.defined()) continue;
    const at::Tensor host = layer.cpu();
    const int64_t* l = host.const_data_ptr<int64_t>();
    double sum = 0, max = 0;
    for (int64_t e = 0; e < layer.numel(); ++e)
      sum += static_cast<double>(l[e]), max = std::max(max, static_cast<double>(l[e]));
    if (sum > 0) most = std::max(most, max * static_cast<double>(layer.numel()) / sum);
  }
  return most;
}

// Every rank holds the biases and the loads of all, so all do the same.
void correct_biases(nn::Decoder& decoder, const std::vector<at::Tensor>& loads, double rate) {
  if (rate == 0) return;
  for (size_t i = 0; i < loads.size(); ++i)
    if (nn::Weight* bias = decoder.layer(i).block->correction_bias())
      nn::correct_bias(*bias, loads[i], rate);
}

}  // namespace

Gradients accumulate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                     std::vector<parallel::Batch> batches, const std::set<std::string>& recompute,
                     double mtp_weight) {
  std::vector<double> counts{0, 0, 0};  // scored tokens, rows, tokens
  for (const auto& b : batches) {
    counts[0] += static_cast<double>(count_scored(b.labels));
    counts[1] += static_cast<double>(b.rows.row_offsets.size() - 1);
    counts[2] += static_cast<double>(b.ids.numel());
  }
  counts = sum_over_ranks(units.comm(), counts);
  parallel::RunOptions run{.training = true, .recompute = recompute};
  run.loss_seed = 1 / std::max(counts[0], 1.0);
  run.mtp_weight = mtp_weight;

  units.zero_grads();
  Gradients g;
  g.loads.resize(decoder.layers.size() + (mtp_weight != 0 ? decoder.mtp.size() : 0));
  for (auto& b : batches) {
    b.rows.aux_seed = 1 / counts[1];
    b.rows.token_seed = 1 / counts[2];
    parallel::MicroBatch batch(decoder, units, dispatcher,
                               parallel::to_device(std::move(b), units.device()), run);
    batch.forward();
    g.loss_sum += number(batch.loss_sum());
    g.mtp_loss_sum += number(batch.mtp_loss_sum());
    g.mtp_scored += static_cast<int64_t>(number(batch.mtp_scored()));
    g.aux += number(batch.aux());
    add_loads(g.loads, decoder, batch);
    batch.backward();
  }
  units.reduce_grads();
  const auto sums = sum_over_ranks(
      units.comm(), {g.loss_sum, g.aux, g.mtp_loss_sum, static_cast<double>(g.mtp_scored)});
  g.loss_sum = sums[0], g.aux = sums[1], g.mtp_loss_sum = sums[2];
  g.mtp_scored = static_cast<int64_t>(sums[3]);
  sum_loads_over_ranks(units.comm(), g.loads);
  g.max_load = max_load(g.loads);
  g.scored = static_cast<int64_t>(counts[0]);
  return g;
}

StepResult step(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                optim::AdamW& optimizer, std::vector<parallel::Batch> batches,
                const StepOptions& options) {
  const Gradients g = accumulate(decoder, units, dispatcher, std::move(batches), options.recompute,
                                 options.mtp_weight);
  const auto mean = [](double sum, int64_t count) {
    return sum / static_cast<double>(std::max<int64_t>(count, 1));
  };
  StepResult r{.loss = mean(g.loss_sum, g.scored),
               .mtp_loss = mean(g.mtp_loss_sum, g.mtp_scored),
               .aux = g.aux,
               .scored = g.scored};
  r.max_load = g.max_load;
  r.grad_norm = std::sqrt(number(units.squared_gradient_norm()));
  if (!std::isfinite(r.grad_norm) || !std::isfinite(r.loss + r.mtp_loss)) {
    r.skipped = true;
    return r;
  }
  // As torch.nn.utils.clip_grad_norm_ scales.
  const double scale =
      options.clip_norm > 0 ? std::min(1.0, options.clip_norm / (r.grad_norm + 1e-6)) : 1.0;
  optimizer.step(options.lr, scale);
  correct_biases(decoder, g.loads, options.bias_rate);
  units.weights_changed();
  return r;
}

Gradients evaluate(nn::Decoder& decoder, parallel::Units& units, comm::Dispatcher& dispatcher,
                   parallel::Batch batch) {
  const int64_t scored = count_scored(batch.labels);
  parallel::MicroBatch micro(decoder, units, dispatcher,
                             parallel::to_device(std::move(batch), units.device()),
                             {.training = false});
  micro.forward();
  return {.loss_sum = number(micro.loss_sum()), .scored = scored};
}

}  // namespace conclave::train
