#include <ATen/ops/zeros.h>

#include "ops/cuda_testing.h"
#include "ops/fixed_exchange.h"
#include "ops/router.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct ExchangeCase {
  int64_t tokens, experts, ranks, top_k;
  int64_t capacity, room;
};

TEST(FixedExchangeCuda, LaysOutAsTheCpuDoes) {
  CONCLAVE_NEEDS_CUDA();
  for (auto [tokens, experts, ranks, top_k, capacity, room] :
       {ExchangeCase{1000, 128, 8, 8, 1000, 12000},
        {1000, 128, 8, 8, 500, 3000},
        {257, 32, 8, 4, 130, 300},
        {37, 8, 8, 4, 40, 400},
        {1, 1, 1, 1, 1, 1},
        {5, 16, 1, 3, 9, 20},
        {0, 4, 2, 2, 3, 5},
        {300'000, 16, 4, 2, 150'000, 200'000},
        {4096, 64, 64, 6, 512, 600}}) {
    SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << experts << " experts, " << ranks
                                      << " ranks, " << top_k << " slots, room for " << capacity);
    const at::Tensor ids = uniform_ids(tokens, top_k, experts, 3, 4);
    at::Tensor needed = at::zeros({2}, at::kLong), needed_there = needed.cuda();
    poison_freed_cuda_memory();
    const SentLayout gpu = sent_layout(ids.cuda(), experts, ranks, capacity, needed_there),
                     cpu = sent_layout(ids, experts, ranks, capacity, needed);
    EXPECT_TRUE(same_bits(gpu.token.cpu(), cpu.token));
    EXPECT_TRUE(same_bits(gpu.rows.cpu(), cpu.rows));
    EXPECT_TRUE(same_bits(gpu.slot.cpu(), cpu.slot));
    EXPECT_TRUE(same_bits(gpu.message.cpu(), cpu.message));
    EXPECT_TRUE(same_bits(needed_there.cpu(), needed));
    const int64_t local = experts / ranks;
    const ArrivedLayout there = arrived_layout(gpu.message, local, ranks, room, needed_there),
                        here = arrived_layout(cpu.message, local, ranks, room, needed);
    const int64_t n = here.row.size(0);
    EXPECT_TRUE(same_bits(there.offsets.cpu().to(at::kLong), here.offsets));
    ASSERT_EQ(there.row.size(0), room);
    for (const auto& [a, b] : {std::pair(there.row, here.row), std::pair(there.slot, here.slot)}) {
      EXPECT_TRUE(same_bits(a.slice(0, 0, n).cpu(), b));
      EXPECT_TRUE(a.slice(0, n).eq(-1).all().item<bool>());
    }
    EXPECT_TRUE(same_bits(there.expert_row.cpu(), here.expert_row));
    EXPECT_TRUE(same_bits(needed_there.cpu(), needed));
  }
}

}  // namespace
}  // namespace conclave::ops
