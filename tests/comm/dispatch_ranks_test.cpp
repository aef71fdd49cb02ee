// Dispatch between thread ranks against the local one over all tokens at once: rows, weights and
// the weights' gradients exactly, sums within the rounding of another order.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <numeric>

#include "cases.h"
#include "comm/dispatch_capacity.h"
#include "routing_cases.h"

namespace conclave::comm {
namespace {

constexpr int64_t kHidden = 7;
const std::string kKinds[] = {"all_to_all", "all_to_all_capacity", "all_gather"};

// With room for any routing of these tests.
std::unique_ptr<Dispatcher> make_roomy(const std::string& kind, Comm& comm) {
  auto d = make_dispatcher(kind, comm);
  if (CapacityDispatcher* fixed = d->with_capacity()) fixed->set_capacity({9, 99});
  return d;
}

std::vector<RoutingCase> all_cases() {
  std::vector<RoutingCase> all = kRoutingCases;
  all.push_back({"no tokens at all", {0, 0}, 4, 2});
  return all;
}

struct Tokens {  // of all ranks
  at::Tensor ids, x, weights, dweights_of_local, rows_of_local;
};

Tokens tokens_of(const RoutingCase& c) {
  const int64_t n = std::accumulate(c.tokens.begin(), c.tokens.end(), int64_t{0});
  return {draw_ids(c, n), at::randn({n, kHidden}, at::kDouble),
          at::randn({n, c.top_k}, at::kDouble), at::randn({n * c.top_k}, at::kDouble),
          at::randn({n * c.top_k, kHidden}, at::kDouble)};
}

template <class Body>
void each_rank(const RoutingCase& c, const std::string& kind, const Body& body) {
  const int ranks = static_cast<int>(c.tokens.size());
  const Tokens all = tokens_of(c);
  LocalDispatcher local;
  const Dispatch whole = local.prepare(all.ids, c.experts);
  run_threads(ranks, [&](Comm& comm) {
    SCOPED_TRACE(kind + ", " + c.name + ", rank " + std::to_string(comm.rank()));
    const int64_t first =
                      std::accumulate(c.tokens.begin(), c.tokens.begin() + comm.rank(), int64_t{0}),
                  mine = c.tokens[static_cast<size_t>(comm.rank())];
    const auto d = make_roomy(kind, comm);
    ASSERT_EQ(d->ranks(), ranks);
    const Dispatch to = d->prepare(all.ids.narrow(0, first, mine), c.experts);
    const int64_t experts = c.experts / ranks;
    const int64_t begin = whole.offsets[comm.rank() * experts].item<int64_t>();
    const at::Tensor offsets = whole.offsets.narrow(0, comm.rank() * experts, experts + 1) - begin;
    EXPECT_TRUE(at::equal(to.offsets, offsets));
    ASSERT_EQ(to.received, offsets[-1].item<int64_t>());
    // What of the tokens this rank has, and what of the local dispatcher's rows.
    const auto tokens = [&](const at::Tensor& t) { return t.narrow(0, first, mine).contiguous(); };
    const auto rows = [&](const at::Tensor& t) {
      return t.narrow(0, begin, to.received).contiguous();
    };
    body(*d, to, local, whole, all, tokens, rows);
  });
}

TEST(RanksDispatcher, MovesRowsAndWeightsAsOneRankWould) {
  for (const std::string& kind : kKinds)
    for (const RoutingCase& c : all_cases())
      each_rank(
          c, kind,
          [](Dispatcher& d, const Dispatch& to, LocalDispatcher& local, const Dispatch& whole,
             const Tokens& all, auto tokens, auto rows) {
            EXPECT_TRUE(
                at::equal(d.dispatch(to, tokens(all.x)), rows(local.dispatch(whole, all.x))));
            EXPECT_TRUE(at::equal(d.dispatch_weights(to, tokens(all.weights)),
                                  rows(local.dispatch_weights(whole, all.weights))));
            EXPECT_TRUE(at::equal(d.combine_weights(to, rows(all.dweights_of_local)),
                                  tokens(local.combine_weights(whole, all.dweights_of_local))));
            const at::Tensor sum = d.combine(to, rows(all.rows_of_local)),
                             want = tokens(local.combine(whole, all.rows_of_local));
            ASSERT_EQ(sum.sizes(), want.sizes());
            if (sum.numel() > 0) {
              EXPECT_LE((sum - want).abs().max().item<double>(), 1e-14);
            }
            // The same layout again, as recompute and backward use it.
            EXPECT_TRUE(
                at::equal(d.dispatch(to, tokens(all.x)), rows(local.dispatch(whole, all.x))));
          });
}

TEST(AllToAllDispatcher, SendsATokenOnceToEachRankThatNeedsIt) {
  for (const RoutingCase& c : all_cases())
    each_rank(c, "all_to_all",
              [&](Dispatcher& d, const Dispatch& to, LocalDispatcher&, const Dispatch&,
                  const Tokens& all, auto tokens, auto) {
                const at::Tensor ranks = tokens(all.ids).div(c.experts / d.ranks(), "floor");
                for (int r = 0; r < d.ranks(); ++r)
                  EXPECT_EQ(to.exchange.sent[static_cast<size_t>(r)],
                            ranks.eq(r).any(1).sum().template item<int64_t>());
              });
}

TEST(RanksDispatcher, AddsInFp32AndRoundsEachPartialSumOnce) {
  // A token with 256 + 1 + 1 + 1 on the first rank: 259 in fp32, 260 in bf16; and 1 on the second.
  for (const std::string& kind : kKinds)
    run_threads(2, [&](Comm& comm) {
      const auto d = make_roomy(kind, comm);
      at::Tensor ids = at::zeros({1, 5}, at::kLong);
      for (int64_t j = 0; j < 5; ++j) ids[0][j] = j;
      const Dispatch to = d->prepare(ids, 10);  // both ranks' token goes to the first rank
      at::Tensor rows = at::full({to.received, 1}, 1.0, at::kBFloat16);
      if (to.received > 0) rows[0] = 256;
      const double want = comm.rank() == 0 ? 260 : 5;
      EXPECT_EQ(d->combine(to, rows)[0].item<double>(), want);
    });
}

TEST(RanksDispatcher, RefusesWhatDoesNotFit) {
  run_threads(2, [](Comm& comm) {
    for (const std::string& kind : kKinds) {
      const auto d = make_roomy(kind, comm);
      const auto first_line = [](const std::string& s) { return s.substr(0, s.find('\n')); };
      EXPECT_EQ(first_line(message_of([&] {
                  d->prepare(at::full({2, 1}, 4, at::kLong), 4);
                })),
                "ids: expected experts 0 … 3, got 4 at token 0");
      EXPECT_EQ(first_line(message_of([&] {
                  d->prepare(at::zeros({2, 1}, at::kLong), 5);
                })),
                "experts: expected a multiple of 2 ranks, got 5");
      const Dispatch to = d->prepare(at::zeros({2, 1}, at::kLong), 4);
      EXPECT_EQ(first_line(message_of([&] {
                  d->dispatch(to, at::zeros({3, 4}));
                })),
                "x: expected [tokens, hidden] = [2, 4], got [3, 4]");
    }
    EXPECT_NE(message_of([&] { make_dispatcher("pigeons", comm); }), "");
  });
}

}  // namespace
}  // namespace conclave::comm
