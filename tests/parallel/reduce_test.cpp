// Sums of gradients over ranks: every kind against a sum by hand in rank order, to the bit.
#include "parallel/reduce.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "comm/groups.h"

namespace conclave::parallel {
namespace {

constexpr int64_t kKept = 37;

at::Tensor gradient(int rank, int64_t n, at::ScalarType dtype) {  // of very different magnitudes
  std::mt19937 draw(static_cast<unsigned>(5 + rank));
  at::Tensor x = at::empty({n}, at::kDouble);
  for (int64_t i = 0; i < n; ++i)
    x.mutable_data_ptr<double>()[i] =
        std::ldexp(static_cast<double>(draw()) / 4294967296.0 - 0.5, static_cast<int>(draw() % 12));
  return x.to(dtype);
}

// Σ over replicas of Σ over shards, each in rank order, of range `place`.
at::Tensor by_hand(const comm::RankLayout& l, int place, Reduction reduction,
                   at::ScalarType dtype) {
  at::Tensor sum;
  for (int copy = 0; copy < l.dp_replicate; ++copy) {
    at::Tensor inner;
    for (int s = 0; s < l.dp_shard; ++s) {
      at::Tensor part = gradient(copy * l.dp_shard + s, l.dp_shard * kKept, dtype)
                            .narrow(0, place * kKept, kKept);
      if (reduction == Reduction::all_to_all_bf16 && l.dp_shard > 1)
        part = part.to(at::kBFloat16).to(dtype);
      inner = inner.defined() ? inner.add(part) : part.clone();
    }
    sum = sum.defined() ? sum.add(inner) : inner;
  }
  return sum;
}

TEST(ReduceGradient, IsTheSumOverShardsThenReplicas) {
  for (auto dtype : {at::kFloat, at::kDouble})
    for (Reduction reduction :
         {Reduction::reduce_scatter, Reduction::all_to_all, Reduction::all_to_all_bf16})
      for (const comm::RankLayout& l : {comm::RankLayout{1, 4}, comm::RankLayout{2, 3},
                                        comm::RankLayout{4, 1}, comm::RankLayout{1, 1}})
        comm::run_thread_ranks(l.world(), [&](comm::CommFactory& factory) {
          const comm::Groups g = comm::make_groups(l, factory);
          at::Tensor whole = gradient(factory.rank(), l.dp_shard * kKept, dtype);
          at::Tensor kept = l.dp_shard == 1 ? whole : at::full({kKept}, NAN, whole.options());
          reduce_gradient(kept, whole, *g.dp_shard, *g.dp_replicate, reduction);
          EXPECT_TRUE(at::equal(kept, by_hand(l, g.dp_shard->rank(), reduction, dtype)))
              << l.text() << ", reduction " << static_cast<int>(reduction);
        });
}

TEST(ReduceGradient, RefusesAnotherSize) {
  const auto one = comm::single();
  EXPECT_THROW(reduce_gradient(at::full({3}, 1.0), at::full({4}, 1.0), *one, *one,
                               Reduction::reduce_scatter),
               c10::Error);
}

}  // namespace
}  // namespace conclave::parallel
