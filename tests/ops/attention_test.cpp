#include "ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {

using testing::Tensors;

struct Case {
  int64_t heads, kv_heads, head_dim;
  std::vector<int64_t> queries, keys;  // of each document
  int64_t v_dim = head_dim;
  int64_t window = 0;
  bool sinks = false;

  std::string name() const {
    std::string text = std::to_string(heads) + ":" + std::to_string(kv_heads) + " heads of " +
                       std::to_string(head_dim) + "/" + std::to_string(v_dim) + ", window " +
                       std::to_string(window) + (sinks ? ", sinks" : "") + ", docs";
    for (size_t d = 0; d < queries.size(); ++d)
      text += " " + std::to_string(queries[d]) + "/" + std::to_string(keys[d]);
    return text;
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
  AttentionOptions options(const Tensors& in, double scale) const {
    return {scale, window, sinks ? in[4] : at::Tensor()};
  }
  AttentionOptions options(const Tensors& in) const { return options(in, scale()); }
};

constexpr double kSlack = 1024;  // roundings in fp64: 1.1e-13 of the largest element
const std::vector<int64_t> kDocs{1, 2, 63, 64, 65, 200};

// As many keys as queries, as in training.
Case packed(int64_t heads, int64_t kv_heads, int64_t head_dim, const std::vector<int64_t>& docs,
            int64_t v_dim, int64_t window, bool sinks) {
  return {heads, kv_heads, head_dim, docs, docs, v_dim, window, sinks};
}

// 520 and 1100 keys go beyond one block of them; 0 queries have keys that nobody sees.
std::vector<Case> cases() {
  const std::vector<int64_t> queries{1, 5, 0, 1, 70, 0}, keys{300, 9, 4, 1, 1100, 0},
      around{1, 2, 9, 10, 11, 150}, around_128{127, 128, 129, 1, 300};
  return {{4, 4, 12, kDocs, kDocs},
          {8, 2, 20, kDocs, kDocs},
          {2, 2, 64, kDocs, kDocs},
          {4, 1, 128, kDocs, kDocs},
          {4, 1, 12, std::vector<int64_t>(40, 3), std::vector<int64_t>(40, 3)},
          {1, 1, 64, {520, 7}, {520, 7}},
          {8, 2, 20, queries, keys},
          {8, 2, 64, {1}, {1100}},
          {2, 1, 1, {}, {}},
          packed(4, 2, 7, kDocs, 5, 0, true),
          packed(2, 2, 192, kDocs, 128, 0, false),
          packed(2, 2, 192, {64, 3}, 128, 10, true),
          packed(4, 2, 12, around, 12, 10, false),
          packed(8, 2, 64, around_128, 64, 128, true),
          packed(4, 1, 128, around, 3, 1, true),
          packed(2, 1, 9, {1300, 4}, 11, 600, true),
          packed(2, 1, 9, {70, 4}, 11, 70, false),
          {8, 2, 20, queries, keys, 20, 6, true},
          {4, 1, 10, queries, keys, 15, 800, true},
          {2, 1, 1, {}, {}, 3, 4, true}};
}

std::vector<int64_t> offsets(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> at{0};
  for (int64_t size : sizes) at.push_back(at.back() + size);
  return at;
}

// {q, k, v, dout, sinks}
Tensors inputs(const Case& c, at::ScalarType dtype) {
  const int64_t tokens = offsets(c.queries).back(), keys = offsets(c.keys).back();
  return {testing::normal({tokens, c.heads, c.head_dim}, dtype, 1),
          testing::normal({keys, c.kv_heads, c.head_dim}, dtype, 2),
          testing::normal({keys, c.kv_heads, c.v_dim}, dtype, 3),
          testing::normal({tokens, c.heads, c.v_dim}, dtype, 4),
          testing::normal({c.heads}, dtype, 5).mul(2)};
}

// Plain attention, document by document, with libtorch's autograd: {out, dq, dk, dv} and dsinks.
Tensors aten_attention(const Case& c, double scale, const Tensors& in) {
  const auto q_at = offsets(c.queries), k_at = offsets(c.keys);
  auto forward = [&](const Tensors& in) -> Tensors {
    Tensors outs{at::zeros({0, c.heads, c.v_dim}, in[0].options())};
    for (size_t d = 0; d < c.queries.size(); ++d) {
      auto of = [&](const at::Tensor& x,
                    const std::vector<int64_t>& at) {  // [heads, rows, width]
        const at::Tensor rows = x.slice(0, at[d], at[d + 1]).transpose(0, 1);
        return rows.size(0) == c.heads ? rows : rows.repeat_interleave(c.heads / c.kv_heads, 0);
      };
      const int64_t before = c.keys[d] - c.queries[d];  // keys before the first query's own
      const at::Tensor ones = at::ones({c.queries[d], c.keys[d]}, at::kBool);
      at::Tensor hidden = ones.triu(before + 1);
      if (c.window) hidden = hidden.logical_or(ones.tril(before - c.window));
      at::Tensor scores = at::matmul(of(in[0], q_at), of(in[1], k_at).transpose(1, 2)) * scale;
      scores = scores.masked_fill(hidden, -INFINITY);
      if (c.sinks)
        scores = at::cat({scores, in[3].view({-1, 1, 1}).expand({-1, c.queries[d], 1})}, 2);
      const at::Tensor p = scores.softmax(-1).slice(2, 0, c.keys[d]);
      outs.push_back(at::matmul(p, of(in[2], k_at)).transpose(0, 1));
    }
    at::Tensor unused =
        in[0].sum() + in[1].sum() + in[2].sum();  // so that all have gradients in every case
    if (c.sinks) unused = unused + in[3].sum();
    return {at::cat(outs) + unused * 0};
  };
  Tensors leaves{in[0], in[1], in[2]};
  if (c.sinks) leaves.push_back(in[4]);
  return testing::with_gradients(forward, leaves, in[3]);
}

// {out, dq, dk, dv}, dsinks where there are sinks, lse
Tensors our_attention(const Case& c, const AttentionOptions& options, const Tensors& in) {
  const auto q_at = offsets(c.queries), k_at = offsets(c.keys);
  const auto [out, lse] = attention(in[0], in[1], in[2], q_at, k_at, options);
  const auto g = attention_backward(in[3], in[0], in[1], in[2], out, lse, q_at, k_at, options);
  EXPECT_EQ(g.dsinks.defined(), c.sinks);
  if (c.sinks) return {out, g.dq, g.dk, g.dv, g.dsinks, lse};
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
      const Tensors in = inputs(c, dtype), got = our_attention(c, c.options(in), in);
      for (size_t i = 0; i < 4; ++i) ASSERT_EQ(got[i].scalar_type(), dtype);
      for (size_t i = 4; i < got.size(); ++i) ASSERT_EQ(got[i].scalar_type(), testing::wide(dtype));
      testing::expect_as_good_as_aten(
          [&](const Tensors& in) { return without_lse(our_attention(c, c.options(in), in)); },
          [&](const Tensors& in) { return aten_attention(c, c.scale(), in); }, in, kSlack);
    }
}

TEST(Attention, LseIsTheLogOfTheDenominator) {
  const Case c{4, 2, 20, {70, 1}, {600, 9}, 20, 0, true};
  const Tensors in = inputs(c, at::kDouble);
  const at::Tensor q = in[0], k = in[1], sinks = in[4],
                   lse = our_attention(c, {0.2, 0, sinks}, in)[5];
  auto want = [&](int64_t token, int64_t head, int64_t first, int64_t last) {
    const at::Tensor keys = k.slice(0, first, last).select(1, head / 2);
    const at::Tensor scores = at::matmul(keys, q[token][head]) * 0.2;
    return at::cat({scores, sinks[head].view({1})}).logsumexp(0).item().toDouble();
  };
  EXPECT_NEAR(lse[3][69].item().toDouble(), want(69, 3, 0, 600), 1e-12);
  EXPECT_NEAR(lse[2][70].item().toDouble(), want(70, 2, 600, 609), 1e-12);
}

TEST(Attention, LargeScoresDoNotOverflow) {
  for (const Case& c :
       {packed(2, 2, 64, {1030}, 64, 0, false), packed(2, 2, 64, {700}, 64, 9, true)})
    testing::expect_as_good_as_aten(
        [&](const Tensors& in) { return without_lse(our_attention(c, c.options(in, 30), in)); },
        [&](const Tensors& in) { return aten_attention(c, 30, in); }, inputs(c, at::kFloat));
}

TEST(Attention, BitsDoNotDependOnThreads) {
  for (const Case& c : cases())
    for (auto dtype : testing::kTypes) {
      SCOPED_TRACE(c.name());
      const Tensors in = inputs(c, dtype);
      testing::expect_same_bits_on_any_threads([&] { return our_attention(c, c.options(in), in); });
    }
}

// Sinks that outweigh every score, and such that weigh nothing; the third and fourth head's are
// within reach of the scores.
TEST(Attention, SinksOfExtremeSize) {
  const Case c = packed(4, 2, 12, {1, 70, 5}, 6, 20, true),
             without = packed(4, 2, 12, {1, 70, 5}, 6, 20, false);
  for (auto dtype : testing::kTypes) {
    Tensors in = inputs(c, dtype);
    for (double huge : {1e4, 1e30}) {
      const std::vector<double> values{-huge, huge, 60, -60};
      in[4] = at::tensor(values, at::kDouble).to(dtype);
      const Tensors got = our_attention(c, c.options(in), in),
                    plain = our_attention(without, without.options(in), in);
      // −huge: the bits of attention without sinks.
      for (size_t i : {0, 1})
        EXPECT_TRUE(testing::same_bits(got[i].select(1, 0).contiguous(),
                                       plain[i].select(1, 0).contiguous()));
      EXPECT_TRUE(testing::same_bits(got[5][0], plain[4][0]));
      EXPECT_EQ(got[4][0].item().toDouble(), 0);
      // huge: nothing is left for the keys.
      for (size_t i : {0, 1}) EXPECT_EQ(got[i].select(1, 1).abs().max().item().toDouble(), 0);
      EXPECT_EQ(got[5][1].min().item().toDouble(), in[4][1].item().toDouble());
      EXPECT_EQ(got[4][1].item().toDouble(), 0);
      for (const at::Tensor& x : got) EXPECT_TRUE(x.isfinite().all().item().toBool());
    }
    in[4] = at::tensor(std::vector<double>{-60, 60, 5, -5}, at::kDouble).to(dtype);
    testing::expect_as_good_as_aten(
        [&](const Tensors& in) { return without_lse(our_attention(c, c.options(in), in)); },
        [&](const Tensors& in) { return aten_attention(c, c.scale(), in); }, in, kSlack);
  }
}

// Key t's value is 1 in column t: an output shows which keys its query saw, and how many.
TEST(Attention, AWindowHoldsItsOwnKeyAndThoseBefore) {
  constexpr int64_t kKeys = 140, kQueries = 100;
  const at::Tensor q = at::zeros({kQueries, 1, 2}, at::kDouble),
                   k = at::zeros({kKeys, 1, 2}, at::kDouble),
                   v = at::eye(kKeys, at::kDouble).unsqueeze(1).contiguous();
  const std::vector<int64_t> q_at{0, kQueries}, k_at{0, kKeys};
  for (int64_t w : {1, 2, 63, 64, 65, 128, 139, 140, 141}) {
    const at::Tensor out = attention(q, k, v, q_at, k_at, {.window = w}).out.squeeze(1);
    for (int64_t i = 0; i < kQueries; ++i) {
      const int64_t own = kKeys - kQueries + i, first = std::max<int64_t>(own - w + 1, 0);
      at::Tensor want = at::zeros({kKeys}, at::kDouble);
      want.slice(0, first, own + 1).fill_(1.0 / double(own - first + 1));
      EXPECT_LE(testing::distance(out[i], want), 1e-15) << "window " << w << ", query " << i;
      EXPECT_TRUE(testing::same_bits(out[i].ne(0), want.ne(0)))
          << "window " << w << ", query " << i;
    }
  }
}

// Cost is O(tokens · window): keys that no query of a tile sees are not even read.
TEST(Attention, KeysOutsideEveryWindowAreNotRead) {
  Case c{2, 1, 8, {80}, {2000}, 8, 100, true};
  Tensors in = inputs(c, at::kDouble);
  const auto clean = our_attention(c, c.options(in), in);
  for (size_t i : {1, 2}) in[i].slice(0, 0, 2000 - 80 - 99).fill_(NAN);
  const auto poisoned = our_attention(c, c.options(in), in);
  for (size_t i = 0; i < clean.size(); ++i)
    EXPECT_TRUE(testing::same_bits(clean[i], poisoned[i])) << i;
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
  auto refuses_options = [&](const std::string& part, const AttentionOptions& options) {
    testing::expect_error([&] { attention(q, k, v, at, at, options); }, part);
  };
  refuses_options("window: expected at least 1, or 0 for none, got -1", {.window = -1});
  refuses_options("sinks: expected [heads] = [4], got [3]", {.sinks = in[4].slice(0, 0, 3)});
  refuses_options("sinks: expected", {.sinks = in[4].to(at::kDouble)});
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
