// The dispatch in fixed numbers of rows against the one that exchanges the counts first: the same
// bits with no row to spare; and what it says where there are too few.
#include "comm/dispatch_capacity.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <mutex>
#include <numeric>
#include <set>

#include "cases.h"
#include "routing_cases.h"

namespace conclave::comm {
namespace {

constexpr int64_t kHidden = 7;

struct Tokens {  // of one rank
  at::Tensor ids, x, weights;
};

// As many for all ranks, so that each can draw its own.
Tokens tokens_of(const RoutingCase& c, int rank) {
  const int64_t n = c.tokens[static_cast<size_t>(rank)];
  return {draw_ids(c, n), at::randn({n, kHidden}, at::kDouble),
          at::randn({n, c.top_k}, at::kDouble)};
}

// What all calls give, for a layout's forward and backward.
std::vector<at::Tensor> results(Dispatcher& d, const Tokens& t, int64_t experts, int rank) {
  const Dispatch to = d.prepare(t.ids, experts);
  const at::Tensor rows = d.dispatch(to, t.x), weights = d.dispatch_weights(to, t.weights);
  // What experts would make of them, other numbers on each rank.
  const at::Tensor made = rows.sin().mul_(weights.unsqueeze(1)).add_(rank);
  return {
      to.offsets,         rows, weights, d.combine(to, made), d.combine_weights(to, weights.cos()),
      d.dispatch(to, t.x)};
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.dtype() == b.dtype() && a.is_contiguous() &&
         b.is_contiguous() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

// The highest load on any rank.
Capacity highest(Comm& comm, const at::Tensor& load) {
  at::Tensor all = at::empty({comm.size(), 2}, at::kLong);
  comm.all_gather(all, load);
  all = all.amax(0);
  return {all[0].item<int64_t>(), all[1].item<int64_t>()};
}

void on_ranks(const RoutingCase& c, const std::function<void(Comm&, const Tokens&)>& body) {
  const int ranks = static_cast<int>(c.tokens.size());
  std::vector<Tokens> tokens;
  for (int r = 0; r < ranks; ++r) tokens.push_back(tokens_of(c, r));
  run_threads(ranks, [&](Comm& comm) {
    SCOPED_TRACE(std::string(c.name) + ", rank " + std::to_string(comm.rank()));
    body(comm, tokens[static_cast<size_t>(comm.rank())]);
  });
}

TEST(CapacityDispatcher, WithNoRowToSpareHasAllToAllsBits) {
  for (const RoutingCase& c : kRoutingCases)
    on_ranks(c, [&](Comm& comm, const Tokens& t) {
      AllToAllDispatcher counted(comm);
      const auto want = results(counted, t, c.experts, comm.rank());
      CapacityDispatcher fixed(comm);
      fixed.set_capacity({9, 99});
      fixed.prepare(t.ids, c.experts);
      const Capacity load = highest(comm, fixed.take_load());
      fixed.set_capacity(load);
      const auto got = results(fixed, t, c.experts, comm.rank());
      for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(same_bits(got[i], want[i])) << i;
      const at::Tensor loads = fixed.take_load();
      EXPECT_EQ(highest(comm, loads), load);
      EXPECT_EQ(fixed.take_load().sum().item<int64_t>(), 0);
    });
}

// One row too few for a rank, or for its experts: the load is told in full by the first layout, no
// result is other than numbers, and the step is void until it is cleared.
TEST(CapacityDispatcher, TellsWhatItLeavesOut) {
  for (const RoutingCase& c : kRoutingCases)
    for (const bool of_experts : {false, true})
      on_ranks(c, [&](Comm& comm, const Tokens& t) {
        CapacityDispatcher fixed(comm);
        fixed.set_capacity({9, 99});
        fixed.prepare(t.ids, c.experts);
        const Capacity load = highest(comm, fixed.take_load());
        Capacity room = load;
        int64_t& less = of_experts ? room.expert_rows : room.peer_rows;
        if (--less == 0) return;
        fixed.set_capacity(room);
        for (const at::Tensor& r : results(fixed, t, c.experts, comm.rank()))
          EXPECT_TRUE(r.isfinite().all().item<bool>());
        EXPECT_EQ(highest(comm, fixed.take_load()), load);
        const auto all = [&](const Capacity& highest) {
          at::Tensor t = at::empty({2}, at::kDouble);
          t[0] = static_cast<double>(highest.peer_rows);
          t[1] = static_cast<double>(highest.expert_rows);
          return t;
        };
        EXPECT_EQ(fixed.left_out(all(room)).item<double>(), 0);
        EXPECT_GT(fixed.left_out(all(load)).item<double>(), 0);
        fixed.set_capacity(load);
        EXPECT_GT(fixed.left_out(all(load)).item<double>(), 0);
        fixed.clear();
        EXPECT_EQ(fixed.left_out(all(load)).item<double>(), 0);
      });
}

TEST(CapacityDispatcher, SendsFixedNumbersOfRowsWhateverTheRoutingIs) {
  class Counted final : public Comm {
   public:
    explicit Counted(Comm& real) : real_(real) {}
    int rank() const override { return real_.rank(); }
    int size() const override { return real_.size(); }
    void all_gather(at::Tensor, const at::Tensor&) override { FAIL(); }
    void reduce_scatter(at::Tensor, const at::Tensor&) override { FAIL(); }
    void all_reduce(at::Tensor) override { FAIL(); }
    void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive,
                    std::span<const int64_t> send) override {
      for (int64_t n : receive) rows.insert(n);
      for (int64_t n : send) rows.insert(n);
      real_.all_to_all(out, in, receive, send);
    }
    void barrier() override { FAIL(); }
    std::set<int64_t> rows;

   private:
    Comm& real_;
  };
  for (const RoutingCase& c : kRoutingCases)
    on_ranks(c, [&](Comm& comm, const Tokens& t) {
      Counted counted(comm);
      CapacityDispatcher fixed(counted);
      fixed.set_capacity({9, 99});
      results(fixed, t, c.experts, comm.rank());
      EXPECT_EQ(counted.rows, (std::set<int64_t>{9, 10}));  // 10: the message, with its heads
    });
}

TEST(CapacityDispatcher, RefusesToStartWithout) {
  run_threads(2, [](Comm& comm) {
    CapacityDispatcher fixed(comm);
    EXPECT_NE(message_of([&] {
                fixed.prepare(at::zeros({2, 1}, at::kLong), 4);
              }).find("expected set_capacity before"),
              std::string::npos);
    EXPECT_NE(message_of([&] {
                fixed.set_capacity({0, 5});
              }).find("expected at least 1 row"),
              std::string::npos);
  });
}

}  // namespace
}  // namespace conclave::comm
