#include "train/loop.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/human.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/stop.h"
#include "base/text.h"
#include "base/timer.h"
#include "checkpoint/writer.h"
#include "train/captured_step.h"
#include "train/metrics.h"
#include "train/shared_state.h"
#include "train/slowest_rank.h"
#include "train/step.h"
#include "train/validate.h"

namespace conclave::train {
namespace {

class Loop {
 public:
  Loop(const LoopConfig& config, Parts& parts, TrainState& state)
      : config_(config),
        parts_(parts),
        state_(state),
        ranks_(parts.units.comm()),
        rows_(config.rows / ranks_.size()),
        micro_rows_(std::min(config.micro_rows, rows_)),
        options_{.clip_norm = config.clip_norm,
                 .recompute = config.recompute,
                 .bias_rate = config.bias_rate,
                 .mtp_weight = config.mtp_weight,
                 .at_once = config.at_once},
        capacity_(parts.dispatcher, ranks_, config.capacity, state.capacity),
        saved_step_(state.step) {
    TORCH_CHECK(rows_ * ranks_.size() == config.rows, "loop: expected rows of a multiple of ",
                ranks_.size(), " ranks, got ", config.rows);
    if (ranks_.rank() == 0) metrics_.emplace(parts.folder.path().string(), state.step);
    if (config.cuda_graph)
      captured_.emplace(parts.decoder, parts.units, parts.dispatcher, parts.optimizer, options_);
  }

  LoopResult run() {
    while (state_.step + in_flight() < config_.steps && !is_stopped()) {
      std::optional<Launched> before = std::exchange(launched_, launch());
      if (before && !finish(*before, /*validating=*/false)) continue;
      // The CPU is done already. On a GPU the next step is launched first, unless what comes now
      // needs this one's weights and figures.
      const int64_t step = state_.step + 1;
      const bool last = step == config_.steps;
      const bool saving = last || due(step, config_.checkpoint_every);
      const bool validating = parts_.validation && (saving || due(step, config_.validate_every));
      if (!saving && !validating && !parts_.units.device().is_cpu()) continue;
      if (finish_launched(validating) && saving && !last) save();
    }
    if (launched_) finish_launched(/*validating=*/false);
    result_.stopped = state_.step < config_.steps;
    if (saved_step_ != state_.step) save();
    writer_.finish();
    if (result_.tokens == 0) finish_the_dead();
    result_.seconds = timer_.seconds();
    return result_;
  }

 private:
  // A step on its way; state_ counts it when it is finished.
  struct Launched {
    double lr;
    StepFigures figures;
    comm::Capacity capacity;
    std::optional<comm::CallTimes::Round> calls;
  };
  int64_t in_flight() const { return launched_ ? 1 : 0; }
  // All ranks stop at the same step: when one of them was asked to, or when a save has failed,
  // which it does on all of them. By the way they tell how long their last finished step was, and
  // their calls in it.
  bool is_stopped() {
    if (ranks_.size() == 1) {
      if (writer_.failed()) writer_.finish();
      return stop_requested();
    }
    const at::Tensor mine = at::tensor({stop_requested() ? 1.0 : 0.0, writer_.failed() ? 1.0 : 0.0,
                                        seconds_, in_calls_},
                                       at::kDouble),
                     all = at::empty({ranks_.size(), mine.numel()}, at::kDouble);
    ranks_.all_gather(all, mine);
    const double* told = all.const_data_ptr<double>();
    bool stopped = false, failed = false;
    double longest = 0;
    std::vector<double> in_calls;
    for (int r = 0; r < ranks_.size(); ++r, told += mine.numel()) {
      stopped = stopped || told[0] != 0;
      failed = failed || told[1] != 0;
      longest = std::max(longest, told[2]);
      in_calls.push_back(told[3]);
    }
    if (longest > 0) slowest_.add(in_calls, longest);
    if (failed) writer_.finish();
    return stopped;
  }
  static bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

  Launched launch() {
    fault_point("train.step");
    const int64_t first =
        state_.sample + in_flight() * config_.rows + ranks_.rank() * rows_;  // of this rank's
    std::vector<parallel::Batch> batches;
    for (int64_t done = 0; done < rows_; done += micro_rows_) {
      const int64_t count = std::min(micro_rows_, rows_ - done);
      batches.push_back(make_batch(parts_.train.batch(parts_.sampler.rows(first + done, count))));
    }
    options_.lr = config_.lr(state_.step + in_flight() + 1);
    if (captured_) return {options_.lr, captured_->run(std::move(batches), options_.lr), {}, {}};
    if (parts_.calls) parts_.calls->open();
    StepFigures figures = step(parts_.decoder, parts_.units, parts_.dispatcher, parts_.optimizer,
                               std::move(batches), options_);
    return {options_.lr, std::move(figures), capacity_.capacity(),
            parts_.calls ? std::optional(parts_.calls->close()) : std::nullopt};
  }

  // False: it changed nothing and is to be launched again.
  bool finish(const Launched& launched, bool validating) {
    if (!count(launched)) return false;
    if (validating) run_validation();
    if (metrics_) metrics_->write(line_);
    return true;
  }
  bool finish_launched(bool validating) {
    return finish(*std::exchange(launched_, std::nullopt), validating);
  }

  bool count(const Launched& launched) {
    const StepResult r = launched.figures.wait();
    if (r.left_out) {  // then so it is of the step behind it, if there is one
      launched_.reset();
      capacity_.make_room(r.load);
      return false;
    }
    if (launched.calls) in_calls_ = launched.calls->seconds(), seconds_ = r.seconds;
    state_.step += 1;
    state_.sample += config_.rows;
    if (r.skipped)
      skip(r);
    else
      state_.tokens += r.scored, in_a_row_ = 0;
    result_.tokens += r.scored;
    result_.last_loss = r.loss;
    note(r, launched);
    capacity_.follow(r.load, state_.step);
    return true;
  }

  // All ranks know the same of the step, so all go on or none.
  void skip(const StepResult& r) {
    state_.skipped += 1;
    std::string what = format("step %lld: the loss or a gradient is not finite",
                              static_cast<long long>(state_.step));
    if (r.odd_ranks == 1) what += format(", on rank %d", r.odd_rank);
    if (r.odd_ranks > 1) what += format(", on %d of %d ranks", r.odd_ranks, ranks_.size());
    if (++in_a_row_ > config_.max_skipped)
      throw RunError(what +
                     (in_a_row_ > 1 ? format(", as in the %lld steps before it",
                                             static_cast<long long>(in_a_row_ - 1))
                                    : std::string()) +
                     format("; max_skipped allows %lld in a row. The checkpoints are as they were: "
                            "look at optimizer.lr, clip_norm and the rows of these steps",
                            static_cast<long long>(config_.max_skipped)));
    log_warn(what +
             format("; the step is skipped (%lld so far)", static_cast<long long>(state_.skipped)));
  }

  void note(const StepResult& r, const Launched& launched) {
    // The mean is of times, not of rates, in which a quick step would count for several.
    const double rate = static_cast<double>(r.scored) / r.seconds;
    rate_ = rate_ == 0 ? rate : 1 / (0.95 / rate_ + 0.05 / rate);
    auto finite = [](double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(); };
    line_ = {{"step", state_.step},       {"loss", finite(r.loss)},
             {"aux", finite(r.aux)},      {"grad_norm", finite(r.grad_norm)},
             {"lr", launched.lr},         {"tokens", state_.tokens},
             {"max_load", r.max_load},    {"seconds", r.seconds},
             {"tokens_per_second", rate}, {"skipped", r.skipped}};
    if (config_.mtp_weight != 0) line_["mtp_loss"] = finite(r.mtp_loss);
    if (capacity_.is_needed()) {
      line_["peer_rows"] = {r.load.peer_rows, launched.capacity.peer_rows};
      line_["expert_rows"] = {r.load.expert_rows, launched.capacity.expert_rows};
    }
    if (const auto slowest = slowest_.lag())
      line_["slowest_rank"] = slowest->rank, line_["lag"] = slowest->of_step;
    if (!status_.due()) return;
    const double left =
        static_cast<double>((config_.steps - state_.step) * config_.rows * parts_.train.seq_len()) /
        rate_;
    std::string rate_text = human_rate(rate_, "tokens");
    if (config_.beside_rate) rate_text += "  " + config_.beside_rate(rate_);
    std::string text =
        format("step %lld/%lld  loss %.4f  %s  %s left", static_cast<long long>(state_.step),
               static_cast<long long>(config_.steps), r.loss, rate_text.c_str(),
               human_duration(left).c_str());
    if (result_.last_validation > 0) text += format("  validation %.4f", result_.last_validation);
    if (const std::string slowest = slowest_.text(); !slowest.empty()) text += "  " + slowest;
    status_.show(text);
  }

  void run_validation() {
    result_.last_validation = validate(parts_, capacity_, micro_rows_);
    line_["validation_loss"] = result_.last_validation;
    status_.finish(format("step %lld  validation loss %.4f", static_cast<long long>(state_.step),
                          result_.last_validation));
  }

  // No step was left to do: tells what a run that was killed after its last save would have told.
  void finish_the_dead() {
    parts_.folder.retire_old(state_.step);
    if (metrics_) result_.last_loss = metrics_->loss_before().value_or(0);
    if (parts_.validation && !result_.stopped)
      result_.last_validation = validate(parts_, capacity_, micro_rows_);
  }

  void save() {
    const bool best = parts_.validation && result_.last_validation > 0 &&
                      line_.contains("validation_loss") &&
                      result_.last_validation < state_.best_validation;
    if (best) state_.best_validation = result_.last_validation;
    saved_step_ = state_.step;
    if (ranks_.size() > 1) return save_shared(state_.step, best);
    checkpoint::FolderContents contents = contents_of(parts_.units, parts_.optimizer, state_);
    parts_.complete(contents);
    writer_.submit(std::move(contents),
                   [this, step = state_.step, best](const checkpoint::FolderContents& c) {
                     parts_.folder.save(step, c, best);
                   });
  }

  // By all ranks at once, each with a thread.
  void save_shared(int64_t step, bool best) {
    checkpoint::FolderContents beside;
    parts_.complete(beside);
    checkpoint::SharedContents contents =
        shared_contents_of(parts_.units, parts_.optimizer, state_);
    contents.config_json = std::move(beside.config_json);
    contents.files = std::move(beside.files);
    writer_.submit(std::move(contents), [this, step, best](const checkpoint::SharedContents& c) {
      parts_.folder.save(step, c, best);
    });
  }

  const LoopConfig& config_;
  Parts& parts_;
  TrainState& state_;
  comm::Comm& ranks_;
  const int64_t rows_, micro_rows_;    // of a step on this rank, and at once
  std::optional<MetricsLog> metrics_;  // on rank 0
  checkpoint::BackgroundWriter writer_;
  StatusLine status_;
  LoopResult result_;
  nlohmann::json line_;
  StepOptions options_;
  CapacityKeeper capacity_;
  std::optional<CapturedStep> captured_;
  std::optional<Launched> launched_;
  Timer timer_;
  double rate_ = 0;                    // tokens a second, smoothed
  int64_t in_a_row_ = 0;               // steps skipped up to now
  double seconds_ = 0, in_calls_ = 0;  // of the last step that is finished
  SlowestRank slowest_;
  int64_t saved_step_;
};

}  // namespace

parallel::Batch make_batch(const data::PackedBatch& packed) {
  parallel::Batch b;
  const auto options = at::TensorOptions().dtype(at::kLong);
  b.ids = at::tensor(packed.ids, options);
  b.labels = at::tensor(packed.labels, options);
  b.rows.positions = at::tensor(packed.positions, options);
  b.rows.doc_offsets = packed.doc_offsets;
  b.rows.row_offsets = packed.row_offsets;
  return b;
}

LoopResult run_loop(const LoopConfig& config, Parts parts, TrainState& state) {
  return Loop(config, parts, state).run();
}

}  // namespace conclave::train
