// This rank's ranges of a decoder's units: gathered before a segment uses them, released after,
// their gradients reduced at the end of a step. Experts' units and the others lie over ranks of
// their own (comm/groups.h), each cut over some and the same on others. With one rank a shard is
// the whole unit and nothing is copied. Untrained units are whole on every rank: who changes them
// does the same on all.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "comm/groups.h"
#include "nn/decoder.h"
#include "parallel/reduce.h"

namespace conclave::parallel {

struct Shard {
  nn::Unit* unit = nullptr;
  comm::Comm *over = nullptr, *replicas = nullptr;  // ranks that share it, that hold the same range
  comm::Interval range;  // of the unit's padded flat buffer; all of it of an untrained unit
  at::Tensor weights;    // [range], the unit's dtype
  at::Tensor grad;       // [range], UnitsOptions::grad_dtype; undefined without training, or of
                         // buffers
  std::vector<int64_t>
      decay_ranges;  // [begin, end) pairs relative to range, ascending: where weight decay applies
};

struct UnitsOptions {
  bool training = true;            // allocate gradients
  bool release_after_use = false;  // gather into a fresh buffer, free it after each use
  at::Device device = at::kCPU;    // of weights and gradients
  // Of gradients; undefined: fp32, or fp64 beside fp64. bf16 only beside bf16, on CUDA.
  at::ScalarType grad_dtype = at::ScalarType::Undefined;
  Reduction reduction = Reduction::reduce_scatter;
};

class Units {
 public:
  // Allocates shards (zeroed gaps, weights uninitialised) and binds those that stay gathered:
  // buffers, and all that one rank has for itself. The groups must outlive it.
  Units(nn::Decoder& decoder, const comm::Groups& groups, UnitsOptions options = {});
  // All units cut over the ranks of `comm`, experts too; each rank has all experts.
  Units(nn::Decoder& decoder, comm::Comm& comm, UnitsOptions options = {});

  const nn::Decoder& decoder() const { return decoder_; }
  std::vector<Shard>& shards() { return shards_; }
  comm::Comm& comm() { return world_; }  // of all ranks
  at::Device device() const { return options_.device; }

  // Collective where there are several ranks: every rank calls them for the same units in the same
  // order.
  void gather(nn::Unit* unit);  // null: nothing
  void release(nn::Unit* unit);
  void weights_changed();  // after an optimizer step or a load: what is gathered is gathered again
  void zero_grads();
  void reduce_grads();  // Σ over ranks into each shard's grad
  // [1] fp64 on the device: Σ g² over all ranks and units after reduce_grads, each element once.
  at::Tensor squared_gradient_norm() const;

 private:
  struct Cut {
    comm::Comm *over, *replicas;
  };
  Units(nn::Decoder& decoder, comm::Comm& world, Cut dense, Cut experts, UnitsOptions options);
  Shard& shard_of(nn::Unit* unit);
  // Alone with the whole unit: it stays bound, and its gradient is accumulated where it is kept.
  static bool is_whole(const Shard& s) { return s.over->size() == 1; }
  nn::Decoder& decoder_;
  comm::Comm& world_;
  UnitsOptions options_;
  std::vector<Shard> shards_;
};

// Fills every weight: norms with ones, biases and buffers with zeros, the others with normal(0,
// stddev) that depends only on (seed, checkpoint name, index), so any layout of ranks starts from
// the same bits (on CUDA up to what ops/random.h says). `master(shard, values)` gets the fp32
// values [range] before rounding of each trained bf16 shard, one at a time.
using TakeMaster = std::function<void(size_t shard, const at::Tensor& values)>;
void initialise(Units& units, uint64_t seed, double stddev, const TakeMaster& master = {});

}  // namespace conclave::parallel
