#include <ATen/Context.h>

#include "ops/attention.h"
#include "ops/cuda_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

// The GPU's kernels round probabilities to bf16 before they multiply, the CPU's do not.
constexpr double kRoundings = 2;

struct AttentionCase {
  const char* name;
  std::vector<int64_t> q_lengths;
  int64_t heads, kv_heads, head_dim, v_dim, window = 0;
  bool sinks = false;
  int64_t more_keys = 0;  // before each document's queries
};
const std::vector<AttentionCase> kAttentionCases = {
    {"equal documents", {128, 128, 128}, 8, 2, 128, 128},
    {"equal documents, dim 64, sinks", {192, 192}, 8, 1, 64, 64, 0, true},
    {"one document, latent's dims", {256}, 4, 4, 192, 128},
    {"equal documents, a window that cuts, sinks", {128, 128}, 8, 2, 64, 64, 40, true},
    {"a window that does not cut", {128, 128}, 4, 2, 64, 64, 128},
    {"packed documents", {1, 2, 39, 40, 41, 130, 7}, 6, 2, 64, 64},
    {"packed documents, window, sinks", {1, 2, 39, 40, 41, 130, 7}, 6, 2, 64, 64, 40, true},
    {"packed documents, latent's dims", {60, 100}, 4, 4, 192, 128},
    {"odd dims", {33, 20}, 4, 2, 10, 14, 0, true},
    {"documents of one token", {1, 1, 1}, 4, 2, 32, 32},
    {"an empty document", {5, 0, 9}, 4, 2, 32, 32},
    {"dims past 256", {20, 33}, 2, 1, 288, 288, 9},
    {"more keys than queries", {1, 6}, 4, 2, 64, 64, 0, false, 30},
    {"more keys than queries, window", {1, 6}, 4, 2, 64, 64, 7, true, 30},
};

std::vector<int64_t> starts(const std::vector<int64_t>& lengths, int64_t more) {
  std::vector<int64_t> offsets{0};
  for (int64_t n : lengths) offsets.push_back(offsets.back() + n + more);
  return offsets;
}

// q, k, v, dout, sinks → out, lse and, in training's case, gradients.
Op attend(const AttentionCase& c) {
  return [=](const Tensors& in) -> Tensors {
    const auto q_offsets = starts(c.q_lengths, 0), k_offsets = starts(c.q_lengths, c.more_keys);
    const AttentionOptions options{0.2, c.window, in[4]};
    auto [out, lse] = attention(in[0], in[1], in[2], q_offsets, k_offsets, options);
    if (c.more_keys > 0) return {out, lse};
    auto [dq, dk, dv, dsinks] =
        attention_backward(in[3], in[0], in[1], in[2], out, lse, q_offsets, k_offsets, options);
    return {out, lse, dq, dk, dv, dsinks};
  };
}

Tensors attention_inputs(const AttentionCase& c, at::ScalarType dtype) {
  const int64_t queries = starts(c.q_lengths, 0).back(),
                keys = starts(c.q_lengths, c.more_keys).back();
  return {normal({queries, c.heads, c.head_dim}, dtype, 1),
          normal({keys, c.kv_heads, c.head_dim}, dtype, 2),
          normal({keys, c.kv_heads, c.v_dim}, dtype, 3),
          normal({queries, c.heads, c.v_dim}, dtype, 4),
          c.sinks ? normal({c.heads}, dtype, 5).mul_(2) : at::Tensor()};
}

TEST(AttentionCuda, EqualsTheCpu) {
  CONCLAVE_NEEDS_CUDA();
  for (const AttentionCase& c : kAttentionCases)
    for (auto dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(::testing::Message() << c.name << ", " << dtype);
      expect_as_good_as_cpu(on_cuda(attend(c)), attend(c), attention_inputs(c, dtype), kRoundings);
    }
}

TEST(AttentionCuda, HasTheSameBitsInDeterministicMode) {
  CONCLAVE_NEEDS_CUDA();
  const bool before = at::globalContext().deterministicAlgorithms();
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  for (const AttentionCase& c : kAttentionCases) {
    SCOPED_TRACE(c.name);
    const Tensors in = moved(attention_inputs(c, at::kBFloat16), at::kCUDA);
    expect_as_good_as_cpu(on_cuda(attend(c)), attend(c), attention_inputs(c, at::kBFloat16),
                          kRoundings);
    const Tensors one = moved(attend(c)(in), at::kCPU);
    for (int i = 0; i < 3; ++i) {
      const Tensors other = moved(attend(c)(in), at::kCPU);
      for (size_t j = 0; j < one.size(); ++j)
        if (one[j].defined()) {
          EXPECT_TRUE(same_bits(one[j], other[j])) << "result " << j;
        }
    }
  }
  at::globalContext().setDeterministicAlgorithms(before, /*warn_only=*/false);
}

// A packed row equals its documents alone, also where these take another way (equal lengths:
// cuDNN).
TEST(AttentionCuda, DocumentsDoNotSeeEachOther) {
  CONCLAVE_NEEDS_CUDA();
  const AttentionCase packed{"", {128, 64, 65}, 4, 2, 64, 64, 0, true};
  const Tensors in = moved(attention_inputs(packed, at::kBFloat16), at::kCUDA),
                all = attend(packed)(in);
  int64_t begin = 0;
  for (int64_t n : packed.q_lengths) {
    AttentionCase alone = packed;
    alone.q_lengths = {n};
    Tensors part;
    for (size_t i = 0; i < 4; ++i) part.push_back(in[i].slice(0, begin, begin + n).contiguous());
    part.push_back(in[4]);
    const Tensors got = attend(alone)(part);
    for (size_t i : {0, 2, 3, 4}) {
      const at::Tensor expected = all[i].slice(0, begin, begin + n);
      EXPECT_LE(distance(got[i].cpu(), expected.cpu()),
                0x1p-6 * expected.abs().max().item().toDouble())
          << i;
    }
    begin += n;
  }
}

}  // namespace
}  // namespace conclave::ops
