// What `conclave benchmark` measures of a rank's share.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "recipes/rank_share.h"
#include "recipes/timeline.h"

namespace conclave::recipes {

struct Rates {  // of the device in this run, operations or bytes a second
  double gemm = 0;
  int64_t gemm_size = 0;
  double copy = 0, attention = 0;  // on a GPU
};

struct Figures {
  std::string device = "cpu";   // or the GPU's name
  std::vector<double> seconds;  // of the timed steps, the device idle at both ends
  double first_step = 0;  // seconds from the launch of the program to the end of the first step
  std::vector<double> losses;  // of these steps, nats a token
  double rows_per_token = 0;
  double delayed = 0;  // seconds of a step's delays that stand for transfers, all together
  Rates rates;
  int64_t peak = 0;  // bytes at most: of the process, on a GPU of tensors
  TimeByPart parts;  // of a step

  // On a GPU; the last three of traced steps, where there are any
  int64_t reserved = 0;                 // bytes taken for tensors at most
  int64_t memory_calls = 0;             // to the driver during the timed steps
  double traced = 0;                    // seconds of a step while it is traced; 0: none was
  std::vector<KernelTime> kernels;      // of a traced step
  std::map<std::string, double> waits;  // of the host for the device, a traced step

  double mean() const;  // of the timed steps
};

// Warm-up and timed steps, a line each; on a GPU then traced steps and the device's rates.
// Writes c.profile where it is set.
Figures measure(const RankShare& share, const BenchmarkConfig& c, at::Device device);

// A line a step, for the user.
void print_step(const RankShare& share, const BenchmarkConfig& c, int64_t index, double seconds,
                double loss);

// Bytes that tensors may take, without other limits.
int64_t free_memory(at::Device device);

}  // namespace conclave::recipes
