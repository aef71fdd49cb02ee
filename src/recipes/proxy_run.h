// One rank's share of a training step on random tokens, as `conclave benchmark` measures it.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "comm/dispatch_proxy.h"
#include "optim/adamw.h"
#include "parallel/micro_batch.h"
#include "recipes/rank_share.h"
#include "train/recording.h"

namespace conclave::recipes {

class ProxyRun {
 public:
  // New weights from the seed.
  ProxyRun(const RankShare& share, const BenchmarkConfig& config, at::Device device);

  // Step 0, 1, …: makes the batch, forward and backward of each micro-batch, and the optimizer's
  // update. Names its parts (base/parts.h). Does not wait for the device, but where a step is
  // recorded (the config's cuda_graph) in the one that is.
  void step(int64_t index);

  // Of the last step, in nats a token; 0 without a head. Waits for the device.
  double loss() const;
  // Rows received for each token and layer, in the mean over all steps. Waits for the device.
  double rows_per_token() const { return dispatcher_.rows_per_token(); }
  // Seconds of all delays that stood for transfers so far.
  double delayed() const { return static_cast<double>(dispatcher_.delayed()) / 1e6; }

 private:
  parallel::Batch batch(int64_t index) const;
  // The gradients of one micro-batch, or of two that run together.
  void run_alone(parallel::MicroBatch& micro);
  void run_together(parallel::MicroBatch& a, parallel::MicroBatch& b);
  void add_loss(const parallel::MicroBatch& micro);
  void launch(int64_t micro_batches, const std::function<parallel::Batch(int64_t)>& batch_of);
  // Scored tokens of a step: all but the last of each row.
  double scored() const { return static_cast<double>(config_.batch.rows * (seq_len_ - 1)); }

  const BenchmarkConfig& config_;
  const at::Device device_;
  const int64_t seq_len_;
  const std::set<std::string> recompute_;
  nn::Decoder decoder_;
  std::unique_ptr<comm::Comm> comm_;
  parallel::Units units_;
  comm::ProxyDispatcher dispatcher_;
  optim::AdamW optimizer_;
  at::Tensor hidden_, dhidden_;  // [tokens, hidden] of a pipeline rank between others: what its
                                 // neighbours would send, the same in each micro-batch
  at::Tensor lr_, grad_scale_;   // [1] fp64
  at::Tensor loss_sum_;          // [1] fp64
  std::optional<train::Recording> recording_;
  std::vector<parallel::Batch> inputs_;  // that a recorded step reads
};

// Floating-point operations a second of one bf16 matrix product [size, size, size] on the CPU.
double gemm_rate(int64_t size);

}  // namespace conclave::recipes
