#include <ATen/ops/remainder.h>

#include "ops/cuda_testing.h"
#include "ops/receive_buffer.h"
#include "ops/router.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct BufferCase {
  int64_t tokens, experts, ranks, top_k, hidden;
};

TEST(ReceiveBufferCuda, EqualsTheCpus) {
  CONCLAVE_NEEDS_CUDA();
  for (auto [tokens, experts, ranks, top_k, hidden] : {BufferCase{1000, 128, 8, 8, 64},
                                                       {257, 32, 8, 4, 40},
                                                       {37, 8, 8, 4, 7},
                                                       {1, 1, 1, 1, 8},
                                                       {5, 16, 1, 3, 16},
                                                       {0, 4, 2, 2, 8},
                                                       {300'000, 16, 4, 2, 8}}) {
    SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << experts << " experts, " << ranks
                                      << " ranks, " << top_k << " slots");
    const int64_t local = experts / ranks;
    const at::Tensor ids = uniform_ids(tokens, top_k, experts, 3, 4);
    const ExpertLayout layout = expert_layout(at::remainder(ids.cuda(), local), local);
    poison_freed_cuda_memory();
    const ReceiveBuffer gpu = receive_buffer(ids.cuda(), layout.row, local, ranks);
    const ReceiveBuffer cpu = receive_buffer(ids, layout.row.cpu().to(at::kLong), local, ranks);
    const int64_t rows = cpu.token.numel();
    auto host = [](const at::Tensor& t, int64_t n) { return t.slice(0, 0, n).cpu().to(at::kLong); };
    EXPECT_TRUE(same_bits(host(gpu.token, rows), cpu.token));
    EXPECT_TRUE(same_bits(host(gpu.row, tokens * top_k), cpu.row));
    EXPECT_TRUE(same_bits(host(gpu.pairs, tokens * top_k), cpu.pairs));
    EXPECT_TRUE(same_bits(host(gpu.pair_begin, rows + 1), cpu.pair_begin));
    EXPECT_TRUE(same_bits(host(gpu.token_begin, tokens + 1), cpu.token_begin));
    if (tokens > 1000) continue;
    for (auto dtype : {at::kFloat, at::kBFloat16}) {
      const at::Tensor x = normal({tokens, hidden}, dtype, 1),
                       y = normal({tokens * top_k, hidden}, dtype, 2);
      auto there_and_back = [&](const at::Tensor& x, const at::Tensor& y,
                                const ReceiveBuffer& b) -> Tensors {
        return {spread_buffer(fill_buffer(x, b), b), token_sums(partial_sums(y, b), b)};
      };
      const Tensors expected = there_and_back(x, y, cpu),
                    got = moved(there_and_back(x.cuda(), y.cuda(), gpu), at::kCPU);
      EXPECT_TRUE(same_bits(got[0], expected[0]));
      EXPECT_TRUE(same_bits(got[1], expected[1]));
    }
  }
}

}  // namespace
}  // namespace conclave::ops
