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
//   residual    what the two halves of the layer start from      norm       outputs of the two
//   norms statistics  of norms and attention                           qkv        projections,
//   before rotary rotary      queries and keys, rotated                        attention  its
//   output router      probabilities and routing weights                layout     ids and the way
//   to the experts dispatch    rows as the experts get them                     gate_up, swiglu
//   inside the experts or the dense layer
std::map<std::string, int64_t> saved_bytes_per_token(const LayerShape& layer, int64_t hidden,
                                                     Precision precision,
                                                     const std::set<std::string>& recompute = {});
// The classes for which recompute saves anything in this model, in the order of the forward.
std::vector<std::string> recomputable_classes(const ModelShape& model);

struct TrainingRun {
  Precision precision = Precision::fp32;
  int64_t tokens = 0;                       // of one micro-batch: rows · row length
  std::set<std::string> recompute = {};     // tensor classes
  int64_t max_logits = int64_t{1} << 22;    // elements of a chunk (ops/cross_entropy.h)
  int64_t data_bytes = 0;                   // tokenized text and what packing keeps
  bool saves = true;                        // checkpoints are written from a copy in memory
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

// The largest moment: the last layer's backward, while all layers' activations are kept. Leaves out
// the alignment of weights (below 256 elements each) and what the allocator holds back.
MemoryForecast forecast_memory(const ModelShape& model, const TrainingRun& run);

}  // namespace conclave::plan
