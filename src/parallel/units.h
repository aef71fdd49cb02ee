// This rank's ranges of a decoder's units: gathered before a segment uses them, released after,
// their gradients reduced when the step's last micro-batch has passed. Experts' units and the
// others lie over ranks of their own (comm/groups.h), each cut over some and the same on others.
// With one rank a shard is the whole unit and nothing is copied. Untrained units are whole on every
// rank: who changes them does the same on all.
//
// What is gathered lies in slots, allocated once: each unit's own where weights stay, else two for
// layers' units of a kind, taken in turn, and one for each other unit. On a GPU gathering and
// reducing are lanes of their own (comm/lane.h); a slot is written when its last use is done, and
// used when the gather into it is.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/groups.h"
#include "comm/lane.h"
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
  bool release_after_use = false;  // a slot is given back after each use, gathered again before
  at::Device device = at::kCPU;    // of weights and gradients
  // Of gradients; undefined: fp32, or fp64 beside fp64. bf16 only beside bf16, on CUDA.
  at::ScalarType grad_dtype = at::ScalarType::Undefined;
  Reduction reduction = Reduction::reduce_scatter;
  bool overlap = true;  // on a GPU: gather and reduce beside the caller's stream
  // NaN into a slot that is given back, so that a view which outlived it shows itself.
  // CONCLAVE_POISON=on turns it on too.
  bool poison = false;
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
  bool gathers() const { return !rings_.empty(); }  // false: all is whole and bound for good
  bool reduces() const { return reduces_; }         // false: gradients are where they are kept
  bool is_gathered(const nn::Unit* unit) const {    // before use; else it is bound for good
    return gathering_[index_of(unit)].ring >= 0;
  }
  int64_t gathered_bytes() const;  // of all slots, each of its ring's largest unit

  // Collective where there are several ranks: every rank calls them for the same units in the same
  // order.
  void gather(nn::Unit* unit);  // null: nothing. The unit is bound when it returns
  // Starts that, if it is to be done and a slot is free; false: none is.
  bool prefetch(nn::Unit* unit);
  void hold(nn::Unit* unit);     // by one that will release it: the last to do so gives it back
  void release(nn::Unit* unit);  // nothing where weights stay
  void weights_changed();  // after an optimizer step or a load: what is gathered is gathered again
  void zero_grads();
  // Starts the sum of this unit's gradient over ranks, to which nothing more is added in this step.
  void reduce(nn::Unit* unit);
  void reduce_grads();  // of all units, those that were started too: the sums are in the shards
  // [1] fp64 on the device: Σ g² over all ranks and units after reduce_grads, each element once.
  at::Tensor squared_gradient_norm() const;

 private:
  struct Cut {
    comm::Comm *over, *replicas;
  };
  Units(nn::Decoder& decoder, comm::Comm& world, Cut dense, Cut experts, UnitsOptions options);
  // Where gathered weights lie.
  struct Slot {
    at::Tensor data;  // allocated at the first gather
    bool taken = false;
    comm::OnWay arrives;
    comm::Mark used;  // behind the last use of what lay here before
  };
  struct Ring {
    int64_t numel = 0;  // of its largest unit
    at::ScalarType dtype = at::kFloat;
    size_t slots_wanted = 0;
    std::vector<Slot> slots;  // more where several micro-batches need more at once
  };
  struct Gathering {  // of a shard
    int ring = -1;    // none: bound for good
    int slot = -1;    // none: not gathered
    int holds = 0;    // releases that are still to come
    bool reduced = false;
  };
  void place_gathered(const std::function<bool(const nn::Unit*)>& is_experts);
  size_t index_of(const nn::Unit* unit) const;
  void choose_ring(size_t shard, const std::string& kind, size_t slots,
                   std::map<std::string, int>& rings);
  bool start(size_t shard, bool may_add_slot);
  void vacate(size_t shard);
  // Alone with the whole unit: it stays bound, and its gradient is accumulated where it is kept.
  static bool is_whole(const Shard& s) { return s.over->size() == 1; }
  nn::Decoder& decoder_;
  comm::Comm& world_;
  UnitsOptions options_;
  std::vector<Shard> shards_;
  std::vector<Gathering> gathering_;  // by shard
  std::vector<Ring> rings_;
  comm::Lane gather_lane_, reduce_lane_;
  comm::Mark changed_;  // behind the last change of weights
  comm::OnWay reducing_;
  bool reduces_ = false;
};

// Fills every weight: norms with ones, biases and buffers with zeros, the others with normal(0,
// stddev) that depends only on (seed, checkpoint name, index), so any layout of ranks starts from
// the same bits (on CUDA up to what ops/random.h says). `master(shard, values)` gets the fp32
// values [range] before rounding of each trained bf16 shard, one at a time.
using TakeMaster = std::function<void(size_t shard, const at::Tensor& values)>;
void initialise(Units& units, uint64_t seed, double stddev, const TakeMaster& master = {});

}  // namespace conclave::parallel
