// One rank's share of a training step on random tokens, as `conclave benchmark` measures it.
#pragma once
#include <memory>

#include "comm/dispatch_proxy.h"
#include "optim/adamw.h"
#include "parallel/micro_batch.h"
#include "recipes/rank_share.h"

namespace conclave::recipes {

class ProxyRun {
 public:
  // New weights from the seed.
  ProxyRun(const RankShare& share, const BenchmarkConfig& config);

  // Step 0, 1, …: makes the batch, forward and backward of each micro-batch, and the optimizer's
  // update. Names its parts (base/parts.h). Returns the loss in nats a token, 0 without a head.
  double step(int64_t index);

  // Rows received for each token and layer, in the mean over all steps.
  double rows_per_token() const { return dispatcher_.rows_per_token(); }

 private:
  parallel::Batch batch(int64_t index) const;

  const BenchmarkConfig& config_;
  const int64_t seq_len_;
  const std::set<std::string> recompute_;
  nn::Decoder decoder_;
  std::unique_ptr<comm::Comm> comm_;
  parallel::Units units_;
  comm::ProxyDispatcher dispatcher_;
  optim::AdamW optimizer_;
  at::Tensor hidden_, dhidden_;  // [tokens, hidden] of a pipeline rank between others: what its
                                 // neighbours would send, the same in each micro-batch
};

// Floating-point operations a second of one bf16 matrix product [size, size, size] on this device.
double gemm_rate(int64_t size);

}  // namespace conclave::recipes
