// What `conclave pretrain` does beside on a GPU.
#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <string>

#include "plan/memory.h"
#include "recipes/pretrain_config.h"

namespace conclave::recipes {

// Before the first tensor: what the config says of determinism, and a message for the moment when
// the memory is used up, with the largest classes of the forecast and what to change.
void prepare_gpu(const PretrainConfig& config, const plan::MemoryForecast& forecast);
std::string out_of_memory_message(const PretrainConfig& config,
                                  const plan::MemoryForecast& forecast);

// A run's speed and memory on a GPU, which is one of as many as there are ranks.
class GpuFigures {
 public:
  GpuFigures(at::Device device, const plan::ModelShape& shape, int64_t seq_len, int ranks);
  // For the progress line: "212 TFLOP/s, MFU 21.4 %, 31.2 GiB" of this GPU at the rate of all
  // ranks.
  std::string text(double tokens_per_second) const;
  // For the summary: device, model_tflops, mfu where the device's peak is known, and the GPU's peak
  // for the process's.
  void add_to(nlohmann::json& summary) const;

 private:
  std::string device_;
  double flops_per_token_, peak_flops_;  // of this GPU, for a token of any rank
};

}  // namespace conclave::recipes
