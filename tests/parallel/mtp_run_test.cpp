// Multi-token prediction: which positions a module sees, what it is asked for, and that nothing of
// it leaks into the main model where it does not run.
#include "parallel/mtp_run.h"

#include <gtest/gtest.h>

#include "ops/cross_entropy.h"
#include "parallel/tiny.h"

namespace conclave::parallel {
namespace {
using namespace testing;

constexpr int64_t kNone = ops::kIgnore;

std::vector<int64_t> list(const at::Tensor& t) {
  const int64_t* p = t.const_data_ptr<int64_t>();
  return {p, p + t.numel()};
}

Batch batch_of(std::vector<int64_t> docs, std::vector<int64_t> rows) {
  Batch b;
  std::vector<int64_t> positions;
  for (size_t d = 0; d + 1 < docs.size(); ++d)
    for (int64_t i = docs[d]; i < docs[d + 1]; ++i) positions.push_back(i - docs[d]);
  const auto whole = at::TensorOptions().dtype(at::kLong);
  std::vector<int64_t> ids(positions.size()), labels(positions.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(10 + i);
  for (size_t d = 0; d + 1 < docs.size(); ++d)
    for (int64_t i = docs[d]; i < docs[d + 1]; ++i)
      labels[static_cast<size_t>(i)] = i + 1 < docs[d + 1] ? 11 + i : kNone;
  b.ids = at::tensor(ids, whole), b.labels = at::tensor(labels, whole);
  b.rows.positions = at::tensor(positions, whole);
  b.rows.doc_offsets = std::move(docs), b.rows.row_offsets = std::move(rows);
  return b;
}

TEST(NextToken, TargetsStayWithinTheDocument) {
  // Two rows; documents of 3, 1, 2 tokens and of 4, whose next piece starts with token 99.
  Batch b = batch_of({0, 3, 4, 6, 10}, {0, 6, 10});
  b.labels[9].fill_(99);
  const NextToken one = next_token(b);
  EXPECT_EQ(list(one.kept), (std::vector<int64_t>{0, 1, 4, 6, 7, 8}));
  EXPECT_EQ(list(one.batch.ids), (std::vector<int64_t>{11, 12, 15, 17, 18, 19}));
  EXPECT_EQ(list(one.batch.labels), (std::vector<int64_t>{12, kNone, kNone, 18, 19, 99}));
  EXPECT_EQ(list(one.batch.rows.positions), (std::vector<int64_t>{0, 1, 0, 0, 1, 2}));
  EXPECT_EQ(one.batch.rows.doc_offsets, (std::vector<int64_t>{0, 2, 3, 6}));
  EXPECT_EQ(one.batch.rows.row_offsets, (std::vector<int64_t>{0, 3, 6}));
  const NextToken two = next_token(one.batch);
  EXPECT_EQ(list(two.kept), (std::vector<int64_t>{0, 3, 4}));
  EXPECT_EQ(list(two.batch.ids), (std::vector<int64_t>{12, 18, 19}));
  EXPECT_EQ(list(two.batch.labels), (std::vector<int64_t>{kNone, 19, 99}));
  EXPECT_EQ(two.batch.rows.doc_offsets, (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(two.batch.rows.row_offsets, (std::vector<int64_t>{0, 1, 3}));
}

TEST(NextToken, LabelsLeftOutStayOut) {
  Batch b = batch_of({0, 5}, {0, 5});
  b.labels[2].fill_(kNone);
  EXPECT_EQ(list(next_token(b).batch.labels), (std::vector<int64_t>{12, kNone, 14, kNone}));
}

TEST(Mtp, DocumentsOfOneTokenLeaveAModuleNothing) {
  for (const int modules : {1, 2}) {
    auto config = tiny_deepseek();
    config["num_nextn_predict_layers"] = modules;
    Tiny tiny({}, config);
    Batch b = batch_of({0, 1, 2, 3}, {0, 3});
    b.labels = at::tensor({1, 2, 3}, at::TensorOptions().dtype(at::kLong));
    MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, b, {.mtp_weight = 0.3});
    micro.forward();
    micro.backward();
    EXPECT_EQ(number(micro.scored()), 3);
    EXPECT_EQ(number(micro.mtp_scored()), 0);
    EXPECT_EQ(number(micro.mtp_loss_sum()), 0);
    for (int m = 0; m < modules; ++m)
      EXPECT_EQ(list(micro.loads(2 + m)), std::vector<int64_t>(6, 0));
    for (auto& s : tiny.units.shards()) {
      const std::string& name = s.unit->name();
      const bool of_module = name.starts_with("layers.2.") || name.starts_with("layers.3.");
      if (s.unit->trained()) {
        EXPECT_EQ(largest(s.grad) > 0, !of_module) << name;
      }
    }
  }
}

std::vector<at::Tensor> gradients(double weight, bool with_modules = true) {
  auto config = tiny_deepseek();
  if (!with_modules) config["num_nextn_predict_layers"] = 0;
  Tiny tiny({}, config);
  Batch b = packed_rows(0, 4);
  b.rows.aux_seed = 0.25;
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, b, {.mtp_weight = weight});
  micro.forward();
  micro.backward();
  return tiny.gradients();
}

TEST(Mtp, TheLossHasItsOwnWeight) {
  const auto none = gradients(0), some = gradients(0.3), more = gradients(0.9),
             without = gradients(0.3, false);
  for (size_t i = 0; i < without.size(); ++i) EXPECT_TRUE(same_bits(none[i], without[i])) << i;
  for (size_t i = 0; i < none.size(); ++i) {
    const at::Tensor expected = none[i].add(some[i].sub(none[i]).mul(3));
    EXPECT_LE(largest(more[i].sub(expected)), 1e-13 * largest(more[i])) << i;
    EXPECT_GT(largest(more[i]), 0) << i;
  }
}

TEST(Mtp, TakesNoPartOutsideTraining) {
  Tiny tiny({}, tiny_deepseek());
  const Batch b = packed_rows(0, 4);
  MicroBatch trained(tiny.decoder, tiny.units, tiny.dispatcher, b, {.mtp_weight = 0.3});
  MicroBatch evaluated(tiny.decoder, tiny.units, tiny.dispatcher, b,
                       {.training = false, .mtp_weight = 0.3});
  trained.forward();
  evaluated.forward();
  EXPECT_EQ(number(evaluated.loss_sum()), number(trained.loss_sum()));
  EXPECT_GT(number(trained.mtp_scored()), 0);
  EXPECT_EQ(number(evaluated.mtp_scored()), 0);
  EXPECT_LT(evaluated.segments().size(), trained.segments().size());
}

TEST(Mla, SavesLatentsOnly) {
  // Wide heads over a narrow latent: what the backward needs of keys and values is the latent.
  auto config = tiny_deepseek();
  config.update({{"qk_nope_head_dim", 40}, {"v_head_dim", 50}, {"num_nextn_predict_layers", 0}});
  config["first_k_dense_replace"] = 2;
  Tiny tiny({}, config);
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, packed_rows(0, 4), {});
  micro.forward();
  const auto saved = micro.saved_bytes();
  constexpr int64_t kLayers = 2, kTokens = 32, kHeads = 3;
  const auto bytes = [](int64_t width) { return kLayers * kTokens * width * 8; };
  EXPECT_EQ(saved.at("qkv"), bytes(8 + kHeads * (40 + 2) + 6 + 2));  // q's latent, q, kv's latent
  EXPECT_EQ(saved.at("norm"), bytes(12 + 12 + 8 + 6));  // both of the layer, both of the latents
  EXPECT_EQ(saved.at("attention"), bytes(kHeads * 50));
  EXPECT_EQ(saved.count("rotary"), 0u);
  EXPECT_EQ(saved.count("linear"), 0u);
}

}  // namespace
}  // namespace conclave::parallel
