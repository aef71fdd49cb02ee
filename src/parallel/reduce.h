// Gradients of a unit, summed over the ranks that computed them into the range that each keeps.
#pragma once
#include <ATen/core/Tensor.h>

#include "comm/comm.h"

namespace conclave::parallel {

// How the ranges of a unit are summed over the ranks that share it. Replicas are summed in the
// gradient's type.
enum class Reduction {
  reduce_scatter,   // in the gradient's type
  all_to_all,       // the same bytes; each range is summed where it is kept, in rank order
  all_to_all_bf16,  // rounded to bf16 on the wire, half the bytes; summed in the gradient's type
};

// kept [n] ← Σ over `replicas` of Σ over `shards` of this rank's range of whole [shards · n].
// `kept` is `whole` itself where `shards` is one rank. Collective.
void reduce_gradient(at::Tensor kept, const at::Tensor& whole, comm::Comm& shards,
                     comm::Comm& replicas, Reduction reduction);

}  // namespace conclave::parallel
