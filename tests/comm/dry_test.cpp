#include "comm/dry.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "cases.h"

namespace conclave::comm {
namespace {

// The calls of one data-parallel step, on any back end.
void step(Comm& comm, at::Device device) {
  const auto make = [&](at::IntArrayRef sizes, at::ScalarType dtype) {
    return at::empty(sizes, at::TensorOptions(dtype).device(device));
  };
  comm.all_gather(make({1024}, at::kBFloat16), make({256}, at::kBFloat16));
  comm.all_to_all(make({6, 8}, at::kFloat), make({4, 8}, at::kFloat),
                  std::vector<int64_t>{1, 2, 3, 0}, std::vector<int64_t>{4, 0, 0, 0});
  comm.reduce_scatter(make({256}, at::kFloat), make({1024}, at::kFloat));
  comm.all_reduce(make({1}, at::kDouble));
  comm.barrier();
}

TEST(Dry, WritesEveryCallToTheLedger) {
  Ledger ledger;
  const auto comm = dry("dp", 3, 4, ledger);
  EXPECT_EQ(comm->rank(), 3);
  EXPECT_EQ(comm->size(), 4);
  step(*comm, at::kMeta);
  const std::vector<LedgerRow> expected{{"dp", "all_gather", "BFloat16", 2048},
                                        {"dp", "all_to_all", "Float", 128},
                                        {"dp", "reduce_scatter", "Float", 4096},
                                        {"dp", "all_reduce", "Double", 8},
                                        {"dp", "barrier", "", 0}};
  EXPECT_EQ(ledger.rows(), expected);
  EXPECT_EQ(ledger.bytes(), 2048 + 128 + 4096 + 8);
}

TEST(Dry, TheLedgerIsTheSameOnEveryRankAndWithRealTensors) {
  Ledger meta, real;
  step(*dry("dp", 0, 4, meta), at::kMeta);
  step(*dry("dp", 2, 4, real), at::kCPU);
  EXPECT_EQ(meta.rows(), real.rows());
}

TEST(Dry, OutputsKeepWhatTheyHeld) {
  Ledger ledger;
  at::Tensor out = at::full({4}, 5.0, at::kDouble);
  dry("dp", 0, 2, ledger)->all_gather(out, numbered(0, 2));
  EXPECT_TRUE(at::equal(out, at::full({4}, 5.0, at::kDouble)));
}

TEST(Dry, SumsUpByGroupAndOperation) {
  Ledger ledger;
  const auto dp = dry("dp", 0, 2, ledger), ep = dry("ep", 0, 2, ledger);
  for (int i = 0; i < 3; ++i) dp->all_reduce(numbered(0, 10));
  ep->barrier();
  EXPECT_EQ(ledger.table(),
            "group         operation          calls           bytes\n"
            "dp            all_reduce             3             240\n"
            "ep            barrier                1               0\n");
}

TEST(Dry, ChecksContractsLikeTheOthers) {
  Ledger ledger;
  EXPECT_EQ(
      message_of([&] { dry("dp", 0, 2, ledger)->all_gather(numbered(0, 5), numbered(0, 2)); }),
      "all_gather: expected `out` of 2 · 2 elements, got 5");
  EXPECT_EQ(message_of([&] { dry("dp", 2, 2, ledger); }), "dry: expected a rank in 0 … 1, got 2");
  EXPECT_TRUE(ledger.rows().empty());
}

}  // namespace
}  // namespace conclave::comm
