// The seams: weights come and go, tensors are made again, weight gradients wait, segments of two
// micro-batches alternate, and the gradients stay what they are.
#include "parallel/micro_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "parallel/seeded.h"

namespace conclave::parallel {
namespace {

using testing::batch;
using testing::number;
using testing::options;
using testing::seeded;
using testing::Tiny;

class MicroBatches : public ::testing::TestWithParam<testing::TinyFamily> {
 protected:
  nlohmann::json config() const { return GetParam().config(); }
  std::vector<at::Tensor> gradients(RunOptions run = options(), UnitsOptions units = {},
                                    std::map<std::string, int64_t>* saved = nullptr) const;
  std::vector<at::Tensor> interleaved(const std::string& order, UnitsOptions units = {},
                                      RunOptions run = options()) const;
  // Whether the i-th unit that gradients() lists is the embedding's or the head's.
  bool used_twice(size_t i) const;
};
INSTANTIATE_TEST_SUITE_P(Families, MicroBatches, ::testing::ValuesIn(testing::kTinyFamilies),
                         testing::name_of);

std::vector<at::Tensor> MicroBatches::gradients(RunOptions run, UnitsOptions units,
                                                std::map<std::string, int64_t>* saved) const {
  Tiny tiny(units, config());
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, batch(0, 4), run);
  micro.forward();
  if (saved) *saved = micro.saved_bytes();
  micro.backward();
  if (run.defer_weight_gradients) micro.run_weight_gradients();
  return tiny.gradients();
}

void expect_same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_GT(testing::largest(a[i]), 0) << "unit " << i;
    EXPECT_TRUE(testing::same_bits(a[i], b[i])) << "unit " << i;
  }
}

void expect_close(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b,
                  double relative) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_LE(testing::largest(a[i].sub(b[i])), relative * testing::largest(b[i])) << "unit " << i;
}

const std::set<std::string> kClasses = {"norm",   "qkv",      "rotary",  "attention",
                                        "linear", "dispatch", "gate_up", "swiglu"};

TEST_P(MicroBatches, ReleasedAndRefilledWeights) {
  const UnitsOptions release{.release_after_use = true, .poison = true};
  expect_same_bits(gradients(), gradients(options(), release));
  // A segment that makes tensors again may need the weights of the one before it.
  expect_same_bits(gradients(), gradients(options(kClasses), release));
  expect_same_bits(gradients(), gradients(options({"norm", "dispatch"}, true), release));

  Tiny tiny(release, config());
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, batch(0, 4), options());
  micro.forward();
  for (const auto& unit : tiny.decoder.units)
    EXPECT_EQ(unit->data().defined(), !unit->trained()) << unit->name();
}

// A pipeline rank between others: hidden states in and out, and their gradients back.
TEST(MicroBatch, WithoutItsEndsIsTheMiddleOfTheWhole) {
  Tiny whole, middle({}, testing::tiny_config(), {.ends = false});
  MicroBatch all(whole.decoder, whole.units, whole.dispatcher, batch(0, 4), options());
  const int last = static_cast<int>(all.segments().size()) - 1;
  all.forward(0);
  Batch handed = batch(0, 4);
  handed.hidden = all.hidden();
  for (int i = 1; i < last; ++i) all.forward(i);
  const at::Tensor out = all.hidden();
  all.forward(last);
  all.backward(last);
  const at::Tensor dout = all.dhidden();
  for (int i = last - 1; i > 0; --i) all.backward(i);

  MicroBatch part(middle.decoder, middle.units, middle.dispatcher, handed, options());
  EXPECT_EQ(part.segments().size(), all.segments().size() - 2);
  part.forward();
  EXPECT_TRUE(testing::same_bits(part.hidden(), out));
  part.seed(dout);
  part.backward();
  EXPECT_TRUE(testing::same_bits(part.dhidden(), all.dhidden()));
  std::vector<at::Tensor> expected = whole.gradients();
  expected = {expected.begin() + 1, expected.end() - 2};  // embedding; final norm and head
  expect_same_bits(middle.gradients(), expected);
  EXPECT_THROW(MicroBatch(middle.decoder, middle.units, middle.dispatcher, batch(0, 4), options()),
               c10::Error);
}

TEST_P(MicroBatches, RecomputeByClass) {
  auto total = [](const std::map<std::string, int64_t>& bytes) {
    int64_t sum = 0;
    for (const auto& [name, b] : bytes) sum += b;
    return sum;
  };
  std::map<std::string, int64_t> kept;
  const auto want = gradients(options(), {}, &kept);
  for (const std::string& name : kClasses) {
    SCOPED_TRACE(name);
    std::map<std::string, int64_t> saved;
    expect_same_bits(want, gradients(options({name}), {}, &saved));
    EXPECT_EQ(saved.count(name), 0u);
    // The attention's output projection goes into a sum, which keeps nothing; not every family has
    // every class. A rotation without a norm before it needs what it turns, to be made again.
    const int64_t turned = name == "rotary" ? saved["qkv"] - kept["qkv"] : 0;
    EXPECT_EQ(turned > 0, name == "rotary" && GetParam().name == std::string("GptOss"));
    EXPECT_EQ(total(saved), total(kept) - kept[name] + turned);
  }
  std::map<std::string, int64_t> saved;
  expect_same_bits(want, gradients(options(kClasses), {}, &saved));
  for (const std::string& name : kClasses) EXPECT_EQ(saved.count(name), 0u) << name;
  EXPECT_LT(total(saved), total(kept) / 2);
}

TEST_P(MicroBatches, DeferredWeightGradients) {
  expect_same_bits(gradients(), gradients(options({}, true)));
  expect_same_bits(gradients(), gradients(options(kClasses, true)));
}

TEST_P(MicroBatches, DeferredMeansAfterTheWholeBackward) {
  Tiny tiny({}, config());
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, batch(0, 4), options({}, true));
  micro.forward();
  micro.backward();
  // The head's gradient comes with the loss; of the others there is none yet.
  for (auto& s : tiny.units.shards()) {
    if (s.unit == tiny.decoder.head_unit || !s.unit->trained()) continue;
    EXPECT_EQ(testing::largest(s.grad), 0) << s.unit->name();
  }
  micro.run_weight_gradients();
  for (const at::Tensor& g : tiny.gradients()) EXPECT_GT(testing::largest(g), 0);
}

// Two micro-batches; letters say whose next segment runs: forward ascending, then backward
// descending.
std::vector<at::Tensor> MicroBatches::interleaved(const std::string& order, UnitsOptions units,
                                                  RunOptions run) const {
  Tiny tiny(units, config());
  MicroBatch a(tiny.decoder, tiny.units, tiny.dispatcher, batch(0, 2), run);
  MicroBatch b(tiny.decoder, tiny.units, tiny.dispatcher, batch(2, 4), run);
  const int n = static_cast<int>(a.segments().size());
  int done[2] = {0, 0};
  auto next = [&](MicroBatch& micro, int& i) {
    if (i < n)
      micro.forward(i);
    else
      micro.backward(2 * n - 1 - i);
    ++i;
  };
  for (size_t i = 0; done[0] + done[1] < 4 * n; ++i) {
    const size_t which = order[i % order.size()] == 'a' ? 0 : 1;
    if (done[which] < 2 * n) next(which == 0 ? a : b, done[which]);
  }
  if (run.defer_weight_gradients) a.run_weight_gradients(), b.run_weight_gradients();
  return tiny.gradients();
}

bool MicroBatches::used_twice(size_t i) const {
  Tiny tiny({}, config());
  std::vector<const nn::Unit*> trained;
  for (const auto& s : tiny.units.shards())
    if (s.unit->trained()) trained.push_back(s.unit);
  return trained.at(i) == tiny.decoder.embedding_unit || trained.at(i) == tiny.decoder.head_unit;
}

TEST_P(MicroBatches, Interleaved) {
  const std::string one_after_the_other = std::string(96, 'a') + std::string(96, 'b');
  const auto want = interleaved(one_after_the_other);
  // a before b at every segment: the same additions in the same order, but for embedding and head
  // where multi-token prediction uses them a second time.
  const bool twice = config().contains("num_nextn_predict_layers");
  auto expect_same_additions = [&](const std::vector<at::Tensor>& got) {
    expect_close(got, want, 1e-14);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(testing::same_bits(got[i], want[i]) || (twice && used_twice(i))) << "unit " << i;
  };
  expect_same_additions(interleaved("ab"));
  expect_same_additions(interleaved("aab"));
  // Another order of additions.
  for (const char* order : {"ba", "abb", "baabb", "aaaaabbbb"}) {
    SCOPED_TRACE(order);
    expect_close(interleaved(order), want, 1e-14);
  }
  expect_close(interleaved(std::string(96, 'b') + std::string(96, 'a')), want, 1e-14);
  expect_same_additions(
      interleaved("ab", {.release_after_use = true, .poison = true}, options(kClasses, true)));
}

TEST_P(MicroBatches, APackedRowIsItsDocumentsAlone) {
  // Without the auxiliary loss, which balances over a row, whatever its documents.
  auto config = this->config();
  config["router_aux_loss_coef"] = 0.0;
  Tiny together({}, config), alone({}, config);
  MicroBatch packed(together.decoder, together.units, together.dispatcher, batch(0, 4), options());
  packed.forward();
  packed.backward();
  double loss = 0, mtp_loss = 0;
  int64_t scored = 0, mtp_scored = 0;
  for (int r = 0; r < 4; ++r)
    for (int d = 0; d < static_cast<int>(testing::kRows[static_cast<size_t>(r)].size()); ++d) {
      MicroBatch one(alone.decoder, alone.units, alone.dispatcher,
                     seeded(testing::make_batch({{{r, d}}})), options());
      one.forward();
      one.backward();
      loss += number(one.loss_sum());
      scored += number(one.scored());
      mtp_loss += number(one.mtp_loss_sum());
      mtp_scored += number(one.mtp_scored());
    }
  const double packed_loss = number(packed.loss_sum());
  EXPECT_NEAR(packed_loss, loss, 1e-12 * loss);
  EXPECT_EQ(number(packed.scored()), scored);
  EXPECT_NEAR(number(packed.mtp_loss_sum()), mtp_loss, 1e-12 * mtp_loss);
  EXPECT_EQ(number(packed.mtp_scored()), mtp_scored);
  const auto got = together.gradients(), want = alone.gradients();
  expect_close(got, want, 1e-12);
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i)
    worst = std::max(worst, testing::largest(got[i].sub(want[i])) / testing::largest(want[i]));
  RecordProperty("loss", std::to_string(1e16 * std::abs(packed_loss - loss) / loss) + "e-16");
  RecordProperty("gradients", std::to_string(1e16 * worst) + "e-16");
}

}  // namespace
}  // namespace conclave::parallel
