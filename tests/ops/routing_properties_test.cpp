// Properties of the router that hold for any logits: thousands of random cases with many ties, few
// or all experts chosen, experts that no token wants and one that all want, biased scores far below
// zero; against a choice made by sorting.
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/random.h"
#include "ops/op_testing.h"
#include "ops/router.h"

namespace conclave::ops {
namespace {
using namespace testing;
using enum Scoring;

// Draws from one stream, in order.
struct Draws {
  uint64_t seed, next = 0;
  int64_t below(int64_t end) {
    return static_cast<int64_t>(conclave::below(static_cast<uint64_t>(end), seed, 0, next++));
  }
  bool one_in(int64_t n) { return below(n) == 0; }
};

struct Case {
  int64_t tokens, experts;
  Selection s;
  at::Tensor logits, bias;
};

Case draw(uint64_t seed) {
  Draws d{seed};
  Case c;
  c.s.scoring = std::vector{softmax_then_top_k, top_k_then_softmax, sigmoid, sigmoid}[d.below(4)];
  c.s.groups = c.s.scoring == sigmoid ? 1 + d.below(4) : 1;
  c.s.top_groups = 1 + d.below(c.s.groups);
  const int64_t size = c.s.groups > 1 ? 2 + d.below(4) : 1 + d.below(12);
  const int64_t most = size * c.s.top_groups;
  c.experts = size * c.s.groups;
  c.s.top_k = d.one_in(4) ? most : 1 + d.below(most);
  c.s.renormalise = !d.one_in(3);
  c.s.scale = d.one_in(2) ? 2.5 : 1;
  c.tokens = d.one_in(4) ? d.below(2) : 1 + d.below(20);
  const int64_t steps = d.one_in(2) ? 3 : 1000;  // 3: nearly every choice is a tie
  std::vector<double> logits(static_cast<size_t>(c.tokens * c.experts)), bias;
  for (double& x : logits) x = 4.0 * double(d.below(steps)) / double(steps) - 2;
  if (d.one_in(4))  // an expert that all want, one that none does
    for (int64_t t = 0; t < c.tokens; ++t) {
      logits[static_cast<size_t>(t * c.experts)] = 9;
      logits[static_cast<size_t>((t + 1) * c.experts - 1)] = -9;
    }
  c.logits = at::tensor(logits, at::kDouble).view({c.tokens, c.experts});
  if (c.s.scoring != sigmoid || d.one_in(4)) return c;
  const double shift = d.one_in(2) ? -7 : 0;  // all biased scores are negative
  for (int64_t e = 0; e < c.experts; ++e) bias.push_back(shift + 0.5 * double(d.below(5)) - 1);
  c.bias = at::tensor(bias, at::kDouble);
  return c;
}

using Row = std::vector<double>;
Row row_of(const at::Tensor& t, int64_t i) {
  const double* p = t.const_data_ptr<double>() + i * t.size(1);
  return {p, p + t.size(1)};
}

// The scores of every expert, as the router's weights where all are chosen.
at::Tensor scores_of(const Case& c) {
  if (c.s.scoring == top_k_then_softmax) return c.logits;
  const Routing all =
      route(c.logits, {}, {.scoring = c.s.scoring, .top_k = c.experts, .renormalise = false});
  return at::zeros_like(c.logits).scatter_(1, all.ids, all.weights);
}

// The best by sorting: the larger score first, of equal ones the lower id.
std::vector<int64_t> best_of(const Row& scores, std::vector<int64_t> among, int64_t count) {
  std::stable_sort(among.begin(), among.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  among.resize(static_cast<size_t>(count));
  return among;
}

std::vector<int64_t> all_below(int64_t n) {
  std::vector<int64_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::vector<int64_t> chosen(const Case& c, Row scores) {
  if (c.bias.defined())
    for (int64_t e = 0; e < c.experts; ++e)
      scores[static_cast<size_t>(e)] += c.bias.const_data_ptr<double>()[e];
  if (c.s.groups == 1) return best_of(scores, all_below(c.experts), c.s.top_k);
  const int64_t size = c.experts / c.s.groups;
  Row sums;
  for (int64_t g = 0; g < c.s.groups; ++g) {
    Row in(scores.begin() + g * size, scores.begin() + (g + 1) * size);
    std::sort(in.rbegin(), in.rend());
    sums.push_back(in[0] + in[1]);
  }
  auto kept = best_of(sums, all_below(c.s.groups), c.s.top_groups);
  std::sort(kept.begin(), kept.end());
  std::vector<int64_t> among;
  for (int64_t g : kept)
    for (int64_t e = g * size; e < (g + 1) * size; ++e) among.push_back(e);
  return best_of(scores, among, c.s.top_k);
}

// Weights of the chosen from their scores; softmax where they are logits.
Row weighed(const Case& c, const Row& scores, const std::vector<int64_t>& ids) {
  Row w;
  double sum = 0;
  for (int64_t e : ids) {
    const double s = scores[static_cast<size_t>(e)];
    w.push_back(c.s.scoring == top_k_then_softmax ? std::exp(s) : s);
    sum += w.back();
  }
  if (c.s.scoring != top_k_then_softmax && !c.s.renormalise) sum = 1;
  for (double& x : w) x *= c.s.scale / sum;
  return w;
}

void expect_holds(const Case& c) {
  const Routing r = route(c.logits, c.bias, c.s);
  const at::Tensor scores = scores_of(c);
  std::vector<int64_t> loads(static_cast<size_t>(c.experts));
  for (int64_t t = 0; t < c.tokens; ++t) {
    const Row of = row_of(scores, t);
    const auto want = chosen(c, of);
    const int64_t* ids = r.ids.const_data_ptr<int64_t>() + t * c.s.top_k;
    ASSERT_EQ(std::vector<int64_t>(ids, ids + c.s.top_k), want) << "token " << t;
    const Row weights = row_of(r.weights, t), right = weighed(c, of, want);
    for (size_t j = 0; j < want.size(); ++j) {
      EXPECT_NEAR(weights[j], right[j], 1e-14) << "token " << t << ", slot " << j;
      ++loads[static_cast<size_t>(want[j])];
    }
    // A token's choice is its own.
    const Routing alone = route(c.logits.narrow(0, t, 1), c.bias, c.s);
    EXPECT_TRUE(same_bits(alone.ids, r.ids.narrow(0, t, 1)));
    EXPECT_TRUE(same_bits(alone.weights, r.weights.narrow(0, t, 1)));
  }
  EXPECT_TRUE(same_bits(r.loads, at::tensor(loads, at::kLong)));
  const at::Tensor d =
      route_backward(normal({c.tokens, c.s.top_k}, at::kDouble, 1), {}, c.logits, r.ids, c.s);
  EXPECT_TRUE(d.isfinite().all().item().toBool());
}

TEST(RoutingProperties, HoldForRandomCases) {
  constexpr int kCases = 3000;
  int ties = 0, negative = 0, everyone = 0, nobody = 0, all = 0, single = 0;
  for (int i = 0; i < kCases; ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    const Case c = draw(static_cast<uint64_t>(i));
    expect_holds(c);
    if (HasFailure()) return;
    const Routing r = route(c.logits, c.bias, c.s);
    all += c.s.top_k == c.experts, single += c.tokens == 1;
    negative += c.bias.defined() && c.s.groups > 1 && c.s.top_groups < c.s.groups &&
                c.bias.max().item().toDouble() < -1;
    if (c.tokens == 0) continue;
    everyone += r.loads.max().item().toLong() == c.tokens && c.tokens > 1;
    nobody += r.loads.min().item().toLong() == 0;
    const Row first = row_of(c.logits, 0);
    ties += std::set(first.begin(), first.end()).size() < first.size();
  }
  for (auto [name, count] : {std::pair{"ties", ties},
                             {"negative biased scores in kept groups", negative},
                             {"all tokens to one expert", everyone},
                             {"an expert without a token", nobody},
                             {"top_k = experts", all},
                             {"one token", single}}) {
    EXPECT_GT(count, 100) << name;
    RecordProperty(name, count);
  }
}

}  // namespace
}  // namespace conclave::ops
