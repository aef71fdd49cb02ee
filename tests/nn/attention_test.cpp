// Attention layers of every kind: gradients, packed documents, generation, and the traps that other
// systems stepped into.
#include "nn/attention.h"

#include <ATen/ops/zeros_like.h>

#include "nn/attention_layers.h"

namespace conclave::nn {
namespace {

using namespace testing;

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item().toDouble();
}

double largest(const at::Tensor& a) { return a.abs().max().item().toDouble(); }

TEST(AttentionLayer, GradientsAreFiniteDifferences) {
  for (const Kind& kind : kinds(3)) {
    SCOPED_TRACE(kind.name);
    LayerCase c(kind, 6);
    c.inputs = {random({9, kHidden}, 1)};
    c.run = [&, rows = rows_of({1, 6, 2})](Tape& t, const auto& in) {
      return c.layer(t, in[0], rows);
    };
    expect_gradients(c);
  }
}

TEST(AttentionLayer, RecomputeOfAnyClassesChangesNoBit) {
  const std::vector<std::string> classes{"norm", "qkv", "rotary", "attention", "linear"};
  const Rows rows = rows_of({4, 7});
  const at::Tensor x = random({11, kHidden}, 1), seed = random({11, kHidden}, 2);
  for (const Kind& kind : kinds(3)) {
    LayerCase c(kind, 7);
    const auto kept = c.run_on(x, seed, rows);
    for (unsigned subset = 1; subset < 1u << classes.size(); ++subset) {
      SCOPED_TRACE(std::string(kind.name) + " " + std::to_string(subset));
      std::set<std::string> recompute;
      for (size_t i = 0; i < classes.size(); ++i)
        if (subset >> i & 1) recompute.insert(classes[i]);
      const auto again = c.run_on(x, seed, rows, recompute);
      EXPECT_TRUE(same_bits(again.dx, kept.dx));
      EXPECT_TRUE(same_bits(again.dweights, kept.dweights));
    }
  }
}

// Loss, outputs and gradients of a packed row are those of its documents run alone.
TEST(AttentionLayer, APackedRowIsItsDocumentsAlone) {
  for (int64_t w : {5, 128}) {
    const std::vector<int64_t> lengths{1, w + 1, 2, w - 1, 1, w, 2 * w + 3, w, 71};
    const Rows packed = rows_of(lengths);
    const int64_t tokens = packed.doc_offsets.back();
    const at::Tensor x = random({tokens, kHidden}, 1), seed = random({tokens, kHidden}, 2);
    for (const Kind& kind : kinds(w)) {
      const std::string name = std::string(kind.name) + ", w = " + std::to_string(w);
      SCOPED_TRACE(name);
      LayerCase c(kind, std::max<int64_t>(2 * w + 3, 71));
      const auto row = c.run_on(x, seed, packed);
      double loss = 0, worst = 0;
      at::Tensor dweights = at::zeros_like(row.dweights);
      for (size_t d = 0; d < lengths.size(); ++d) {
        auto of = [&](const at::Tensor& t) {
          return t.narrow(0, packed.doc_offsets[d], lengths[d]).contiguous();
        };
        const auto alone = c.run_on(of(x), of(seed), rows_of({lengths[d]}));
        EXPECT_LE(distance(of(row.out), alone.out), 1e-10) << "document " << d;
        EXPECT_LE(distance(of(row.dx), alone.dx), 1e-10) << "document " << d;
        worst = std::max({worst, distance(of(row.out), alone.out), distance(of(row.dx), alone.dx)});
        dweights.add_(alone.dweights);
        loss += alone.out.mul(of(seed)).sum().item().toDouble();
      }
      EXPECT_NEAR(row.out.mul(seed).sum().item().toDouble(), loss, 1e-10);
      EXPECT_LE(distance(row.dweights, dweights), 1e-10 * std::max(1.0, largest(dweights)));
      worst = std::max(worst, distance(row.dweights, dweights) / std::max(1.0, largest(dweights)));
      RecordProperty(name, std::to_string(1e16 * worst) + "e-16");
    }
  }
}

// In pieces, as generation and its first pass do.
TEST(AttentionLayer, ACacheGivesWhatOnePassGives) {
  const std::vector<int64_t> pieces{7, 1, 1, 3, 1, 70, 1};
  const int64_t tokens = 84;
  const at::Tensor x = random({tokens, kHidden}, 1);
  for (int64_t w : {1, 5})
    for (const Kind& kind : kinds(w)) {
      SCOPED_TRACE(kind.name);
      LayerCase c(kind, tokens);
      Tape tape(false);
      const at::Tensor whole = c.layer(tape, tape.input(x), rows_of({tokens})).data;
      KvCache cache(1);
      int64_t at = 0;
      for (int64_t piece : pieces) {
        Rows rows = rows_of({piece});
        rows.positions.add_(at);
        rows.cache = &cache;
        const at::Tensor out =
            c.layer(tape, tape.input(x.narrow(0, at, piece).contiguous()), rows).data;
        EXPECT_LE(distance(out, whole.narrow(0, at, piece)), 1e-12) << "at token " << at;
        at += piece;
      }
    }
}

TEST(AttentionLayer, ACacheIsForOneDocumentAndNoGradient) {
  for (const Kind& kind : {kinds(3).front(), kinds(3).back()}) {
    LayerCase c(kind, 4);
    KvCache cache(1);
    Rows rows = rows_of({2, 2});
    rows.cache = &cache;
    Tape silent(false), recording;
    const at::Tensor x = random({4, kHidden}, 1);
    EXPECT_THROW(c.layer(silent, silent.input(x), rows), c10::Error);
    rows = rows_of({4});
    rows.cache = &cache;
    EXPECT_THROW(c.layer(recording, recording.input(x), rows), c10::Error);
  }
}

// Trap 11: documents of a packed row see each other.
TEST(AttentionLayer, Trap11DocumentsThatSeeEachOther) {
  const Rows rows = rows_of({4, 6, 3});
  const at::Tensor x = random({13, kHidden}, 1);
  at::Tensor other = x.clone(), seed = at::zeros_like(x);
  other.narrow(0, 0, 4).mul_(2);
  other.narrow(0, 10, 3).add_(1);
  seed.narrow(0, 4, 6).copy_(random({6, kHidden}, 2));
  for (const Kind& kind : kinds(3)) {
    SCOPED_TRACE(kind.name);
    LayerCase c(kind, 6);
    const auto a = c.run_on(x, seed, rows), b = c.run_on(other, seed, rows);
    EXPECT_TRUE(same_bits(a.out.narrow(0, 4, 6), b.out.narrow(0, 4, 6)));
    EXPECT_EQ(largest(a.dx.narrow(0, 0, 4)), 0);
    EXPECT_EQ(largest(a.dx.narrow(0, 10, 3)), 0);
    EXPECT_GT(largest(a.dx.narrow(0, 4, 6)), 0.01);
  }
}

// Trap 8: the window holds one key too many or too few. Token i sees w keys with its own.
TEST(AttentionLayer, Trap8WindowOffByOne) {
  constexpr int64_t tokens = 12, last = tokens - 1;
  const at::Tensor x = random({tokens, kHidden}, 1);
  at::Tensor seed = at::zeros_like(x);
  seed[last].fill_(1);
  for (int64_t w : {1, 2, 5, 12})
    for (const Kind& kind : kinds(w)) {
      if (!kind.window) continue;
      SCOPED_TRACE(std::string(kind.name) + " of " + std::to_string(w));
      LayerCase c(kind, tokens);
      const at::Tensor dx = c.run_on(x, seed, rows_of({tokens})).dx;
      for (int64_t t = 0; t < tokens; ++t)
        EXPECT_EQ(largest(dx[t]) > 0, t > last - w) << "token " << t;
    }
}

// Trap 11: rotary positions run on over a packed row. Scores depend on differences of positions
// only, so a loss cannot show it; rotated queries and keys do, and a table as long as the longest
// document.
TEST(AttentionLayer, Trap11RotaryThatDoesNotRestart) {
  const std::vector<int64_t> lengths{3, 6, 2};
  const int64_t heads = 2, dim = 4;
  const auto table = ops::rotary_table(6, dim, {.theta = 50}, at::kDouble);
  const at::Tensor x = random({11, heads * dim}, 1);
  const Rows rows = rows_of(lengths);
  Tape tape(false);
  const at::Tensor turned = rotary(tape, tape.input(x), heads, rows, table).data;
  for (size_t d = 0; d < lengths.size(); ++d) {
    const at::Tensor alone =
        rotary(tape, tape.input(x.narrow(0, rows.doc_offsets[d], lengths[d]).contiguous()), heads,
               rows_of({lengths[d]}), table)
            .data;
    EXPECT_TRUE(same_bits(turned.narrow(0, rows.doc_offsets[d], lengths[d]), alone))
        << "document " << d;
    EXPECT_TRUE(same_bits(turned[rows.doc_offsets[d]].view({-1}), x[rows.doc_offsets[d]]))
        << "document " << d;
  }
  Rows running = rows;
  running.positions = at::arange(11, at::kLong);
  EXPECT_THROW(rotary(tape, tape.input(x), heads, running, table), c10::Error);
}

}  // namespace
}  // namespace conclave::nn
