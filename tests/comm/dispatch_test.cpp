// Against a dispatch written with one row at a time, in value and gradient (as transposes), in
// fp64.
#include "comm/dispatch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "cases.h"

namespace conclave::comm {
namespace {

struct Case {
  int64_t tokens, experts, top_k, hidden;
};
const Case kCases[] = {{0, 4, 2, 8}, {1, 1, 1, 3}, {5, 16, 2, 7}, {37, 8, 4, 16}, {64, 3, 3, 5}};

at::Tensor ids_of(const Case& c) {
  return std::get<1>(at::rand({c.tokens, c.experts}, at::kDouble).topk(c.top_k));
}

// The (token, slot) pairs of the received rows: experts ascending, tokens ascending within one.
std::vector<std::pair<int64_t, int64_t>> pairs_by_hand(const at::Tensor& ids, int64_t experts) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t t = 0; t < ids.size(0); ++t)
      for (int64_t j = 0; j < ids.size(1); ++j)
        if (ids[t][j].item<int64_t>() == e) pairs.emplace_back(t, j);
  return pairs;
}

TEST(LocalDispatcher, RowsAndWeightsComeInTheOrderOfExperts) {
  for (const Case& c : kCases) {
    LocalDispatcher d;
    const at::Tensor ids = ids_of(c), x = at::randn({c.tokens, c.hidden}, at::kDouble);
    const at::Tensor w = at::randn({c.tokens, c.top_k}, at::kDouble);
    const Dispatch to = d.prepare(ids, c.experts);
    EXPECT_EQ(to.received, c.tokens * c.top_k);
    ASSERT_EQ(to.offsets.sizes(), at::IntArrayRef({c.experts + 1}));
    EXPECT_EQ(to.offsets.scalar_type(), at::kLong);
    EXPECT_TRUE(to.offsets.is_cpu());
    const at::Tensor rows = d.dispatch(to, x), weights = d.dispatch_weights(to, w);
    const auto pairs = pairs_by_hand(ids, c.experts);
    ASSERT_EQ(rows.size(0), static_cast<int64_t>(pairs.size()));
    for (int64_t e = 0; e < c.experts; ++e)
      for (int64_t r = to.offsets[e].item<int64_t>(); r < to.offsets[e + 1].item<int64_t>(); ++r) {
        const auto [t, j] = pairs[static_cast<size_t>(r)];
        EXPECT_EQ(ids[t][j].item<int64_t>(), e);
        EXPECT_TRUE(at::equal(rows[r], x[t]));
        EXPECT_EQ(weights[r].item<double>(), w[t][j].item<double>());
      }
  }
}

TEST(LocalDispatcher, CombineAddsATokensRowsInSlotOrder) {
  for (const Case& c : kCases) {
    LocalDispatcher d;
    const at::Tensor ids = ids_of(c);
    const Dispatch to = d.prepare(ids, c.experts);
    const at::Tensor rows = at::randn({to.received, c.hidden}, at::kDouble);
    const auto pairs = pairs_by_hand(ids, c.experts);
    at::Tensor expected = at::zeros({c.tokens, c.hidden}, at::kDouble);
    for (int64_t j = 0; j < c.top_k; ++j)
      for (size_t r = 0; r < pairs.size(); ++r)
        if (pairs[r].second == j) expected[pairs[r].first] += rows[static_cast<int64_t>(r)];
    EXPECT_TRUE(at::equal(d.combine(to, rows), expected));
  }
}

// <dispatch(x), y> = <x, combine(y)>: each is the other's backward, on the same layout.
TEST(LocalDispatcher, BackwardOfEachIsTheOther) {
  for (const Case& c : kCases) {
    LocalDispatcher d;
    const Dispatch to = d.prepare(ids_of(c), c.experts);
    const at::Tensor x = at::randn({c.tokens, c.hidden}, at::kDouble);
    const at::Tensor y = at::randn({to.received, c.hidden}, at::kDouble);
    EXPECT_NEAR((d.dispatch(to, x) * y).sum().item<double>(),
                (x * d.combine(to, y)).sum().item<double>(), 1e-10);
    const at::Tensor w = at::randn({c.tokens, c.top_k}, at::kDouble);
    const at::Tensor dw = at::randn({to.received}, at::kDouble);
    EXPECT_NEAR((d.dispatch_weights(to, w) * dw).sum().item<double>(),
                (w * d.combine_weights(to, dw)).sum().item<double>(), 1e-10);
    EXPECT_TRUE(at::equal(d.combine_weights(to, d.dispatch_weights(to, w)), w));
  }
}

TEST(LocalDispatcher, RefusesTensorsOfAnotherLayout) {
  LocalDispatcher d;
  const Dispatch to = d.prepare(ids_of({5, 4, 2, 3}), 4);
  const auto first_line = [](const std::string& s) { return s.substr(0, s.find('\n')); };
  EXPECT_EQ(first_line(message_of([&] {
              d.dispatch(to, at::zeros({6, 3}, at::kDouble));
            })),
            "x: expected [tokens, hidden] = [5, 3], got [6, 3]");
  EXPECT_EQ(first_line(message_of([&] {
              d.combine(to, at::zeros({9, 3}, at::kDouble));
            })),
            "rows: expected [received, hidden] = [10, 3], got [9, 3]");
  EXPECT_EQ(first_line(message_of([&] {
              d.dispatch_weights(to, at::zeros({5, 3}, at::kDouble));
            })),
            "weights: expected [tokens, top_k] = [5, 2], got [5, 3]");
  EXPECT_EQ(first_line(message_of([&] { d.combine_weights(to, at::zeros({9}, at::kDouble)); })),
            "dweights: expected [received] = [10], got [9]");
  EXPECT_THROW(d.prepare(at::zeros({5}, at::kLong), 4), c10::Error);
}

}  // namespace
}  // namespace conclave::comm
