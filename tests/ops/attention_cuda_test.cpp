#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include "ops/attention.h"
#include "ops/attention_cudnn_cuda.h"
#include "ops/cuda_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

// The GPU's kernels round probabilities to bf16 before they multiply, the CPU's do not.
constexpr double kRoundings = 2;
// With a single key the gradients of q and k are exactly 0: what is left then are roundings of
// operands of about 1.
constexpr double kAbsolute = 2e-6;

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
    {"equal documents, latent's dims", {320, 320}, 4, 4, 192, 128},
    {"equal documents, longer", {576, 576}, 8, 2, 128, 128},
    {"equal documents, dim 40", {64, 64}, 4, 2, 40, 40},
    {"equal documents, a window that cuts, sinks", {128, 128}, 8, 2, 64, 64, 40, true},
    {"equal documents, a window that cuts", {192, 192}, 8, 2, 128, 128, 70},
    {"one document, a window of one key", {64}, 4, 2, 64, 64, 1},
    {"latent's dims, a window that cuts, sinks", {128, 128}, 4, 4, 192, 128, 65, true},
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
      expect_as_good_as_cpu(on_cuda(attend(c)), attend(c), attention_inputs(c, dtype), kRoundings,
                            kAbsolute);
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
                          kRoundings, kAbsolute);
    const Tensors one = moved(attend(c)(in), at::kCPU);
    for (int i = 0; i < 3; ++i) {
      const Tensors other = moved(attend(c)(in), at::kCPU);
      for (size_t j = 0; j < one.size(); ++j) {
        if (!one[j].defined()) continue;
        EXPECT_TRUE(same_bits(one[j], other[j])) << "result " << j;
      }
    }
  }
  at::globalContext().setDeterministicAlgorithms(before, /*warn_only=*/false);
}

// Documents, and heads of one, that take turns for want of room have the results that they have
// together.
TEST(AttentionCuda, DeterministicTurnsDoNotShow) {
  CONCLAVE_NEEDS_CUDA();
  const AttentionCase c{"", {256, 256, 256}, 12, 3, 64, 64};
  const Tensors in = moved(attention_inputs(c, at::kBFloat16), at::kCUDA);
  const auto offsets = starts(c.q_lengths, 0);
  const auto [out, lse] = attention(in[0], in[1], in[2], offsets, offsets, {0.2});
  auto backward = [&, &out = out, &lse = lse](int64_t scores) -> Tensors {
    const cuda::CudnnAttention n{.documents = 3,
                                 .length = 256,
                                 .heads = 12,
                                 .kv_heads = 3,
                                 .head_dim = 64,
                                 .v_dim = 64,
                                 .scale = 0.2,
                                 .deterministic = true};
    if (!cuda::has_cudnn_backward(n, scores)) return {};
    auto g = cuda::cudnn_backward(n, in[3], in[0], in[1], in[2], out, lse, scores);
    return moved({g.dq, g.dk, g.dv}, at::kCPU);
  };
  const Tensors together = backward(int64_t{1} << 30);
  if (together.empty()) GTEST_SKIP() << "cuDNN has no deterministic backward for this GPU";
  constexpr int64_t kHead = 2 * 256 * 256;
  for (int64_t heads : {24, 12, 8, 4}) {  // two documents and one, one, two groups and one, one
    SCOPED_TRACE(heads);
    const Tensors got = backward(heads * kHead);
    ASSERT_EQ(got.size(), together.size());
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_LE(distance(got[i], together[i]), 0x1p-7 * together[i].abs().max().item().toDouble());
  }
  EXPECT_TRUE(backward(3 * kHead).empty());
}

// As the step does that is captured: plans were made before, the bits are those of a plain call.
TEST(AttentionCuda, DeterministicModeCanBeCaptured) {
  CONCLAVE_NEEDS_CUDA();
  const bool before = at::globalContext().deterministicAlgorithms();
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  const AttentionCase c{"", {256, 256}, 8, 2, 128, 128};
  const Tensors in = moved(attention_inputs(c, at::kBFloat16), at::kCUDA), plain = attend(c)(in);
  Tensors captured;
  at::cuda::CUDAGraph graph;
  {
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    c10::cuda::device_synchronize();
    attend(c)(in);  // the stream's own workspaces
    graph.capture_begin();
    captured = attend(c)(in);
    graph.capture_end();
    graph.replay();
    c10::cuda::device_synchronize();
  }
  for (size_t i = 0; i < plain.size(); ++i) {
    if (!plain[i].defined()) continue;
    EXPECT_TRUE(same_bits(captured[i].cpu(), plain[i].cpu())) << "result " << i;
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
