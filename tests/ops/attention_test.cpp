#include "ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>

#include <cmath>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {

using testing::Tensors;

struct Case {
  int64_t heads, kv_heads, head_dim;
  std::vector<int64_t> queries, keys;  // of each document

  std::string name() const {
    std::string text = std::to_string(heads) + ":" + std::to_string(kv_heads) + " heads of " +
                       std::to_string(head_dim) + ", docs";
    for (size_t d = 0; d < queries.size(); ++d)
      text += " " + std::to_string(queries[d]) + "/" + std::to_string(keys[d]);
    return text;
  }
};

constexpr double kSlack = 1024;  // roundings in fp64: 1.1e-13 of the largest element
const std::vector<int64_t> kDocs{1, 2, 63, 64, 65, 200};

// 520 and 1100 keys go beyond one block of them; 0 queries have keys that nobody sees.
std::vector<Case> cases() {
  return {{4, 4, 12, kDocs, kDocs},
          {8, 2, 20, kDocs, kDocs},
          {2, 2, 64, kDocs, kDocs},
          {4, 1, 128, kDocs, kDocs},
          {4, 1, 12, std::vector<int64_t>(40, 3), std::vector<int64_t>(40, 3)},
          {1, 1, 64, {520, 7}, {520, 7}},
          {8, 2, 20, {1, 5, 0, 1, 70, 0}, {300, 9, 4, 1, 1100, 0}},
          {8, 2, 64, {1}, {1100}},
          {2, 1, 1, {}, {}}};
}

std::vector<int64_t> offsets(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> at{0};
  for (int64_t size : sizes) at.push_back(at.back() + size);
  return at;
}

double scale_of(const Case& c) { return 1 / std::sqrt(static_cast<double>(c.head_dim)); }

// {q, k, v, dout}
Tensors inputs(const Case& c, at::ScalarType dtype) {
  const int64_t tokens = offsets(c.queries).back(), keys = offsets(c.keys).back();
  const std::vector<int64_t> q{tokens, c.heads, c.head_dim}, kv{keys, c.kv_heads, c.head_dim};
  return {testing::normal(q, dtype, 1), testing::normal(kv, dtype, 2),
          testing::normal(kv, dtype, 3), testing::normal(q, dtype, 4)};
}

// Plain attention, document by document, with libtorch's autograd: {out, dq, dk, dv}.
Tensors aten_attention(const Case& c, double scale, const Tensors& in) {
  const auto q_at = offsets(c.queries), k_at = offsets(c.keys);
  auto forward = [&](const Tensors& in) -> Tensors {
    Tensors outs{in[0].slice(0, 0, 0)};
    for (size_t d = 0; d < c.queries.size(); ++d) {
      auto of = [&](const at::Tensor& x,
                    const std::vector<int64_t>& at) {  // [heads, rows, head_dim]
        const at::Tensor rows = x.slice(0, at[d], at[d + 1]).transpose(0, 1);
        return rows.size(0) == c.heads ? rows : rows.repeat_interleave(c.heads / c.kv_heads, 0);
      };
      const at::Tensor hidden =
          at::ones({c.queries[d], c.keys[d]}, at::kBool).triu(c.keys[d] - c.queries[d] + 1);
      const at::Tensor scores =
          at::matmul(of(in[0], q_at), of(in[1], k_at).transpose(1, 2)) * scale;
      outs.push_back(at::matmul(scores.masked_fill(hidden, -INFINITY).softmax(-1), of(in[2], k_at))
                         .transpose(0, 1));
    }
    return {at::cat(outs) +
            (in[1].sum() + in[2].sum()) * 0};  // so that k and v have gradients in every case
  };
  return testing::with_gradients(forward, {in[0], in[1], in[2]}, in[3]);
}

// {out, dq, dk, dv, lse}
Tensors our_attention(const Case& c, double scale, const Tensors& in) {
  const auto q_at = offsets(c.queries), k_at = offsets(c.keys);
  const auto [out, lse] = attention(in[0], in[1], in[2], q_at, k_at, {.scale = scale});
  const auto g =
      attention_backward(in[3], in[0], in[1], in[2], out, lse, q_at, k_at, {.scale = scale});
  return {out, g.dq, g.dk, g.dv, lse};
}

Tensors without_lse(Tensors results) {
  results.pop_back();
  return results;
}

TEST(Attention, EqualsAtenInValueAndGradient) {
  for (const Case& c : cases())
    for (auto dtype : testing::kTypes) {
      SCOPED_TRACE(c.name());
      const double scale = scale_of(c);
      const Tensors in = inputs(c, dtype);
      for (const at::Tensor& x : our_attention(c, scale, in))
        ASSERT_TRUE(x.scalar_type() == dtype || x.dim() == 2);
      testing::expect_as_good_as_aten(
          [&](const Tensors& in) { return without_lse(our_attention(c, scale, in)); },
          [&](const Tensors& in) { return aten_attention(c, scale, in); }, in, kSlack);
    }
}

TEST(Attention, LseIsTheLogOfTheDenominator) {
  const Case c{4, 2, 20, {70, 1}, {600, 9}};
  const Tensors in = inputs(c, at::kDouble);
  const at::Tensor q = in[0], k = in[1], lse = our_attention(c, 0.2, in)[4];
  const at::Tensor scores = at::matmul(q[69][3], k.slice(0, 0, 600).select(1, 1).t()) * 0.2;
  EXPECT_NEAR(lse[3][69].item().toDouble(), scores.logsumexp(0).item().toDouble(), 1e-12);
  const at::Tensor single = at::matmul(q[70][2], k.slice(0, 600, 609).select(1, 1).t()) * 0.2;
  EXPECT_NEAR(lse[2][70].item().toDouble(), single.logsumexp(0).item().toDouble(), 1e-12);
}

TEST(Attention, LargeScoresDoNotOverflow) {
  const Case c{2, 2, 64, {1030}, {1030}};
  testing::expect_as_good_as_aten(
      [&](const Tensors& in) { return without_lse(our_attention(c, 30, in)); },
      [&](const Tensors& in) { return aten_attention(c, 30, in); }, inputs(c, at::kFloat));
}

TEST(Attention, BitsDoNotDependOnThreads) {
  for (const Case& c : cases())
    for (auto dtype : testing::kTypes) {
      SCOPED_TRACE(c.name());
      const Tensors in = inputs(c, dtype);
      testing::expect_same_bits_on_any_threads([&] { return our_attention(c, scale_of(c), in); });
    }
}

TEST(Attention, RefusesWhatItCannotDo) {
  const Case c{4, 2, 8, {4, 4}, {4, 4}};
  const Tensors in = inputs(c, at::kFloat);
  const at::Tensor q = in[0], k = in[1], v = in[2];
  const std::vector<int64_t> at{0, 4, 8};
  auto refuses = [&](const std::string& part, const at::Tensor& q, const at::Tensor& k,
                     const std::vector<int64_t>& q_at, const std::vector<int64_t>& k_at) {
    testing::expect_error([&] { attention(q, k, v, q_at, k_at, {}); }, part);
  };
  EXPECT_NO_THROW(attention(q, k, v, at, at, {}));
  refuses("heads: expected a multiple of kv_heads = 2, got 3", q.slice(1, 0, 3).contiguous(), k, at,
          at);
  refuses("q: expected", q.transpose(0, 1), k, at, at);
  refuses("k: expected", q, k.to(at::kDouble), at, at);
  refuses("q_offsets: expected 0 … 8, got [0, 4, 7]", q, k, {0, 4, 7}, at);
  refuses("q_offsets: expected ascending numbers", q, k, {0, 9, 8}, at);
  refuses("k_offsets: expected 2 numbers as in q_offsets, got 3", q, k, {0, 8}, at);
  refuses("document 0: expected at least as many keys as its 5 queries, got 4", q, k, {0, 5, 8},
          at);
}

}  // namespace
}  // namespace conclave::ops
