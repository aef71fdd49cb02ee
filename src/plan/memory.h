// What a training run will need of memory, before it starts: arithmetic on sizes, for one rank.
#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "plan/shape.h"

namespace conclave::plan {

enum class Precision { fp32, fp64, bf16 };

struct ElementBytes {
  int64_t weight, master, wide;  // wide: gradients, each moment, statistics, routing
};
ElementBytes element_bytes(Precision precision);

// Bytes a token that one layer keeps from forward to backward, by the tensor class that nn/ saves
// it under; a class in `recompute` is made again instead and counts 0.
//   residual         what the two halves of the layer start from
//   norm             outputs of the two norms, of latent attention's as well
//   statistics       of norms and of attention's softmax
//   qkv              projections before rotary; with latent attention queries and both latents
//   rotary           queries and keys, rotated; latent attention rotates them again instead
//   attention        its output
//   router           probabilities or scores, and routing weights
//   layout           ids and the way to the experts; on a GPU half as wide
//   dispatch         rows as the experts get them
//   gate_up, swiglu  inside the experts, the shared expert or the dense layer
std::map<std::string, int64_t> saved_bytes_per_token(const LayerShape& layer, int64_t hidden,
                                                     Precision precision,
                                                     const std::set<std::string>& recompute = {});
// The classes for which recompute saves anything in this model, in the order of the forward.
std::vector<std::string> recomputable_classes(const ModelShape& model);

struct TrainingRun {
  Precision precision = Precision::fp32;
  bool master = true;        // bf16: the fp32 master's low bits are kept
  int64_t moment_bytes = 0;  // an element of each moment; 0: wide
  int64_t grad_bytes = 0;    // an element of the gradient; 0: wide
  int64_t dense_shards = 1;  // moments and low bits of 1/dense_shards of all but the experts
  int64_t tokens = 0;        // of one micro-batch: rows · row length
  int64_t at_once = 1;       // micro-batches whose activations are kept at a time
  std::set<std::string> recompute = {};  // tensor classes
  bool on_gpu = false;
  int64_t deterministic_row = 0;          // on a GPU in deterministic mode: tokens of a row, else 0
  int64_t max_logits = int64_t{1} << 22;  // elements of a chunk (ops/cross_entropy.h)
  int64_t data_bytes = 0;                 // tokenized text and what packing keeps
  double received = 0;                    // rows a token that come from other ranks' tokens
  bool saves = true;                      // checkpoints are written from a copy in memory
  int64_t base_bytes = int64_t{150} << 20;  // the program and libtorch before anything is allocated
};

struct MemoryRow {
  std::string what;
  int64_t bytes;
};

struct MemoryForecast {
  std::vector<MemoryRow>
      rows;  // e.g. "weights", "activations: norm"; those of 0 bytes are left out
  int64_t total() const;
  int64_t bytes(const std::string& what) const;  // 0 if there is no such row
  std::string table() const;                     // a line a row, and the total
};

// The largest moment: the last layer's backward, while all layers' activations are kept; on a GPU
// the head's loss where that is larger, and without CUDA's own memory and the program's. Leaves out
// the alignment of weights (below 256 elements each) and what the allocator holds back.
MemoryForecast forecast_memory(const ModelShape& model, const TrainingRun& run);

}  // namespace conclave::plan
