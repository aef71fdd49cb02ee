#include "recipes/proxy_run.h"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <limits>

#include "base/parts.h"
#include "base/random.h"
#include "base/timer.h"
#include "parallel/together.h"

namespace conclave::recipes {
namespace {

// The optimizer has the experts whole and 1/dp_shard of every other unit.
std::vector<optim::FlatShard> owned(nn::Decoder& decoder, parallel::Units& units,
                                    int64_t dp_shard) {
  std::vector<optim::FlatShard> shards;
  for (auto& s : units.shards()) {
    const bool experts = std::any_of(decoder.layers.begin(), decoder.layers.end(),
                                     [&](const nn::Layer& l) { return l.experts == s.unit; });
    const int64_t all = s.weights.numel(), part = experts ? all : (all + dp_shard - 1) / dp_shard;
    const bool trained = s.unit->trained();
    shards.push_back({s.weights.narrow(0, 0, part),
                      trained ? s.grad.narrow(0, 0, part) : at::Tensor(),
                      {},
                      trained});
  }
  return shards;
}

// torch.optim.Adam's defaults, as the published runs have them.
optim::AdamWConfig adam(double lr) {
  return {.lr = lr, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0};
}

at::Tensor normal_bf16(int64_t tokens, int64_t hidden, uint64_t seed, const char* stream,
                       double stddev) {
  at::Tensor t = at::empty({tokens, hidden}, at::kFloat);
  fill_normal(t.data_ptr<float>(), seed, hash_name(stream), 0, static_cast<uint64_t>(t.numel()),
              stddev);
  return t.to(at::kBFloat16);
}

}  // namespace

ProxyRun::ProxyRun(const RankShare& share, const BenchmarkConfig& config, at::Device device)
    : config_(config),
      device_(device),
      seq_len_(share.seq_len),
      recompute_(share.run.recompute),
      decoder_(make_decoder(share, device)),
      comm_(comm::single()),
      units_(
          decoder_, *comm_,
          {.device = device, .grad_dtype = share.run.grad_bytes == 2 ? at::kBFloat16 : at::kFloat}),
      dispatcher_(share.share.expert_ranks, {config.transfer.dispatch, config.transfer.combine}),
      optimizer_(adam(config.lr), owned(decoder_, units_, config.layout.dp_shard),
                 {.master = config.precision == "master", .bf16_moments = true}) {
  parallel::initialise(units_, static_cast<uint64_t>(config.seed), decoder_.initializer_range);
  const at::TensorOptions scalar = at::TensorOptions().dtype(at::kDouble).device(device);
  lr_ = at::full({1}, config.lr, scalar);
  grad_scale_ = at::full({1}, 1, scalar);
  if (config.transfer.beside != "nothing") dispatcher_.lane().open("rows", device);
  if (config.cuda_graph && device.is_cuda()) recording_.emplace(device);
  if (decoder_.share.ends) return;
  const int64_t tokens = config.batch.micro_rows * seq_len_;
  const auto seed = static_cast<uint64_t>(config.seed);
  hidden_ = normal_bf16(tokens, decoder_.hidden, seed, "hidden", 1).to(device);
  dhidden_ = normal_bf16(tokens, decoder_.hidden, seed, "gradient",
                         1 / static_cast<double>(config.batch.rows * seq_len_))
                 .to(device);
}

// Random ids, each sequence a document; labels are the ids that follow.
parallel::Batch ProxyRun::batch(int64_t index) const {
  const int64_t rows = config_.batch.micro_rows, tokens = rows * seq_len_;
  parallel::Batch b;
  b.rows.positions = at::arange(seq_len_, at::kLong).repeat({rows});
  for (int64_t r = 0; r <= rows; ++r) b.rows.doc_offsets.push_back(r * seq_len_);
  b.rows.row_offsets = b.rows.doc_offsets;
  b.rows.gate = config_.gate == "balanced"  ? nn::Gate::balanced
                : config_.gate == "uniform" ? nn::Gate::uniform
                                            : nn::Gate::router;
  b.rows.gate_seed = static_cast<uint64_t>(index);
  if (!decoder_.share.ends) {
    b.hidden = hidden_;
    return b;
  }
  b.ids = at::empty({tokens}, at::kLong);
  b.labels = at::empty({tokens}, at::kLong);
  int64_t *ids = b.ids.data_ptr<int64_t>(), *labels = b.labels.data_ptr<int64_t>();
  at::parallel_for(0, tokens, /*grain_size=*/256, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      ids[t] = static_cast<int64_t>(below(static_cast<uint64_t>(decoder_.vocab),
                                          static_cast<uint64_t>(config_.seed),
                                          static_cast<uint64_t>(index), static_cast<uint64_t>(t)));
  });
  for (int64_t t = 0; t < tokens; ++t) labels[t] = (t + 1) % seq_len_ ? ids[t + 1] : -100;
  return b;
}

void ProxyRun::step(int64_t index) {
  const int64_t micro_batches = config_.batch.rows / config_.batch.micro_rows;
  const auto make = [&](int64_t i) {
    Part part("batch");
    return parallel::to_device(batch(index * micro_batches + i), device_);
  };
  if (!recording_) return launch(micro_batches, make);
  for (int64_t i = 0; i < micro_batches; ++i) {
    const parallel::Batch b = make(i);
    if (inputs_.size() < static_cast<size_t>(micro_batches)) {
      inputs_.push_back(b);
    } else if (decoder_.share.ends) {
      inputs_[static_cast<size_t>(i)].ids.copy_(b.ids);
      inputs_[static_cast<size_t>(i)].labels.copy_(b.labels);
    }
  }
  recording_->run(
      [&] { launch(micro_batches, [&](int64_t i) { return inputs_[static_cast<size_t>(i)]; }); });
}

void ProxyRun::add_loss(const parallel::MicroBatch& micro) {
  loss_sum_ = loss_sum_.defined() ? at::add(loss_sum_, micro.loss_sum()) : micro.loss_sum();
}

void ProxyRun::run_alone(parallel::MicroBatch& micro) {
  micro.forward();
  decoder_.share.ends ? add_loss(micro) : micro.seed(dhidden_);
  micro.backward();
}

void ProxyRun::run_together(parallel::MicroBatch& a, parallel::MicroBatch& b) {
  parallel::forward_together(a, b);
  for (parallel::MicroBatch* micro : {&a, &b})
    decoder_.share.ends ? add_loss(*micro) : micro->seed(dhidden_);
  parallel::backward_together(a, b);
}

void ProxyRun::launch(int64_t micro_batches,
                      const std::function<parallel::Batch(int64_t)>& batch_of) {
  parallel::RunOptions run{.training = true, .recompute = recompute_};
  run.loss_seed = 1 / scored();
  {
    Part part("zero gradients");
    units_.zero_grads();
  }
  loss_sum_.reset();
  const int64_t at_once = config_.transfer.beside == "two_micro_batches" ? 2 : 1;
  for (int64_t i = 0; i < micro_batches; i += at_once) {
    parallel::MicroBatch micro(decoder_, units_, dispatcher_, batch_of(i), run);
    if (at_once == 1) {
      run_alone(micro);
      continue;
    }
    parallel::MicroBatch other(decoder_, units_, dispatcher_, batch_of(i + 1), run);
    run_together(micro, other);
  }
  Part part("optimizer");
  optimizer_.step(lr_, grad_scale_);
  units_.weights_changed();
}

double ProxyRun::loss() const {
  return loss_sum_.defined() ? loss_sum_.item().toDouble() / scored() : 0;
}

double gemm_rate(int64_t size) {
  const at::Tensor a = normal_bf16(size, size, 1, "a", 1), b = normal_bf16(size, size, 1, "b", 1);
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) {
    Timer timer;
    at::mm(a, b);
    best = std::min(best, timer.seconds());
  }
  const auto n = static_cast<double>(size);
  return 2 * n * n * n / best;
}

}  // namespace conclave::recipes
