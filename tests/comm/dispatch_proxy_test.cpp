// One rank's share against its plain definition, in fp64: all experts on one rank, where experts e
// and e + experts / ranks are the same.
#include "comm/dispatch_proxy.h"

#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <gtest/gtest.h>

#include <set>

namespace conclave::comm {
namespace {

struct Case {
  int64_t tokens, experts, ranks, top_k, hidden;
};
const Case kCases[] = {{1, 1, 1, 1, 3},   {0, 4, 2, 2, 8},  {5, 16, 4, 2, 7},
                       {37, 8, 8, 4, 16}, {64, 6, 3, 6, 5}, {23, 12, 2, 5, 9}};

at::Tensor ids_of(const Case& c) {
  return std::get<1>(at::rand({c.tokens, c.experts}, at::kDouble).topk(c.top_k));
}

// Each expert is a matrix [hidden, hidden]; rows times weights through it.
at::Tensor through(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& experts,
                   const at::Tensor& offsets) {
  std::vector<at::Tensor> parts{rows.narrow(0, 0, 0)};
  for (int64_t e = 0; e < experts.size(0); ++e) {
    const int64_t begin = offsets[e].item<int64_t>(), end = offsets[e + 1].item<int64_t>();
    parts.push_back(at::matmul(at::mul(rows.narrow(0, begin, end - begin),
                                       weights.narrow(0, begin, end - begin).unsqueeze(1)),
                               experts[e]));
  }
  return at::cat(parts);
}

double largest(const at::Tensor& t) { return t.numel() ? at::abs(t).max().item<double>() : 0; }

TEST(ProxyDispatcher, EqualsTheWholeLayerWithRepeatedExperts) {
  for (const Case& c : kCases) {
    const at::Tensor ids = ids_of(c), x = at::randn({c.tokens, c.hidden}, at::kDouble);
    const at::Tensor w = at::randn({c.tokens, c.top_k}, at::kDouble);
    const at::Tensor local = at::randn({c.experts / c.ranks, c.hidden, c.hidden}, at::kDouble);
    const auto layer = [&](Dispatcher& d, const at::Tensor& experts) {
      const Dispatch to = d.prepare(ids, c.experts);
      return d.combine(to,
                       through(d.dispatch(to, x), d.dispatch_weights(to, w), experts, to.offsets));
    };
    LocalDispatcher whole;
    ProxyDispatcher share(c.ranks);
    const at::Tensor expected = layer(whole, local.repeat({c.ranks, 1, 1}));
    EXPECT_LE(largest(at::sub(layer(share, local), expected)), 1e-12 * (1 + largest(expected)));
  }
}

TEST(ProxyDispatcher, ARowComesOncePerTokenAndRank) {
  for (const Case& c : kCases) {
    const at::Tensor ids = ids_of(c);
    const int64_t local = c.experts / c.ranks;
    std::set<std::pair<int64_t, int64_t>> seen;
    for (int64_t t = 0; t < c.tokens; ++t)
      for (int64_t j = 0; j < c.top_k; ++j) seen.emplace(t, ids[t][j].item<int64_t>() / local);
    const Dispatch to = ProxyDispatcher(c.ranks).prepare(ids, c.experts);
    ASSERT_EQ(to.buffer.token.numel(), static_cast<int64_t>(seen.size()));
    int64_t row = 0;
    for (const auto& [token, rank] : seen) EXPECT_EQ(to.buffer.token[row++].item<int64_t>(), token);
    EXPECT_EQ(to.received, c.tokens * c.top_k);
    EXPECT_EQ(to.offsets.numel(), local + 1);
    // Pairs stand by local expert, in token order within one.
    for (int64_t e = 0; e < local; ++e)
      for (int64_t r = to.offsets[e].item<int64_t>(); r < to.offsets[e + 1].item<int64_t>(); ++r) {
        const int64_t pair = to.sent.pair[r].item<int64_t>();
        EXPECT_EQ(ids.view({-1})[pair].item<int64_t>() % local, e);
        if (r > to.offsets[e].item<int64_t>()) EXPECT_LT(to.sent.pair[r - 1].item<int64_t>(), pair);
      }
  }
}

TEST(ProxyDispatcher, BackwardsAreTransposes) {
  for (const Case& c : kCases) {
    ProxyDispatcher d(c.ranks);
    const Dispatch to = d.prepare(ids_of(c), c.experts);
    const at::Tensor x = at::randn({c.tokens, c.hidden}, at::kDouble),
                     rows = at::randn({to.received, c.hidden}, at::kDouble),
                     w = at::randn({c.tokens, c.top_k}, at::kDouble),
                     dw = at::randn({to.received}, at::kDouble);
    const auto dot = [](const at::Tensor& a, const at::Tensor& b) {
      return at::mul(a, b).sum().item<double>();
    };
    EXPECT_NEAR(dot(d.dispatch(to, x), rows), dot(x, d.combine(to, rows)), 1e-10);
    EXPECT_NEAR(dot(d.dispatch_weights(to, w), dw), dot(w, d.combine_weights(to, dw)), 1e-12);
  }
}

TEST(ProxyDispatcher, RefusesWhatCannotBeShared) {
  const at::Tensor ids = at::tensor(std::vector<int64_t>{0, 3}, at::TensorOptions(at::kLong));
  EXPECT_THROW(ProxyDispatcher(3).prepare(ids.view({1, 2}), 4), c10::Error);
  EXPECT_THROW(ProxyDispatcher(1).prepare(ids.view({1, 2}), 3), c10::Error);
}

}  // namespace
}  // namespace conclave::comm
