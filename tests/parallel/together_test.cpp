// Two micro-batches at a time give what one after the other gives, and share what is gathered.
#include "parallel/together.h"

#include <gtest/gtest.h>

#include "parallel/tiny.h"

namespace conclave::parallel {
namespace {

using namespace testing;

// One rank that counts what is gathered.
class Counting final : public comm::Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_gather(at::Tensor out, const at::Tensor& in) override {
    ++gathered, one_->all_gather(out, in);
  }
  void reduce_scatter(at::Tensor out, const at::Tensor& in) override {
    one_->reduce_scatter(out, in);
  }
  void all_reduce(at::Tensor x) override { one_->all_reduce(x); }
  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    one_->all_to_all(out, in, receive_rows, send_rows);
  }
  void barrier() override {}

  int gathered = 0;

 private:
  std::unique_ptr<comm::Comm> one_ = comm::single();
};

struct Result {
  std::vector<at::Tensor> gradients;
  int gathered = 0;
  int64_t slots = 0;  // bytes
};

Result run(const nlohmann::json& config, bool together, bool release,
           const std::set<std::string>& recompute = {}) {
  nn::Decoder decoder = make_tiny(config);
  Counting comm;
  Units units(decoder, comm, {.release_after_use = release, .poison = true});
  initialise(units, 5, 0.3);
  fill_correction_biases(decoder);
  comm::LocalDispatcher dispatcher;
  const RunOptions options{.recompute = recompute, .loss_seed = 0.1, .mtp_weight = 0.3};
  MicroBatch a(decoder, units, dispatcher, packed_rows(0, 2), options);
  MicroBatch b(decoder, units, dispatcher, packed_rows(2, 4), options);
  if (together) {
    forward_together(a, b), backward_together(a, b);
  } else {
    a.forward(), b.forward(), a.backward(), b.backward();
  }
  Result r{.gathered = comm.gathered, .slots = units.gathered_bytes()};
  for (const auto& s : units.shards())
    if (s.unit->trained()) r.gradients.push_back(s.grad.clone());
  return r;
}

TEST(Together, GivesTheBitsOfOneAfterTheOther) {
  for (const nlohmann::json& config : {tiny_config(), tiny_gpt_oss()}) {
    const Result want = run(config, false, false);
    for (bool release : {false, true}) {
      const Result got = run(config, true, release, {"norm", "dispatch"});
      for (size_t i = 0; i < want.gradients.size(); ++i) {
        EXPECT_GT(largest(want.gradients[i]), 0) << i;
        EXPECT_TRUE(same_bits(got.gradients[i], want.gradients[i])) << i;
      }
    }
  }
  // With multi-token prediction the head's and the embedding's sums have another order.
  const Result want = run(tiny_deepseek(), false, false), got = run(tiny_deepseek(), true, true);
  for (size_t i = 0; i < want.gradients.size(); ++i)
    EXPECT_LE(largest(got.gradients[i].sub(want.gradients[i])), 1e-14 * largest(want.gradients[i]));
}

// But for the embedding in the forward, final norm and head in the backward, which the first has
// left before the second comes.
TEST(Together, ReleasedWeightsAreGatheredOnceForBoth) {
  const int alone = run(tiny_gpt_oss(), false, true).gathered;
  EXPECT_EQ(alone, 2 * 2 * (2 * 3 + 3));
  EXPECT_EQ(run(tiny_gpt_oss(), true, true).gathered, alone / 2 + 3);
  EXPECT_EQ(run(tiny_gpt_oss(), true, false).gathered, 0);
}

// Embedding, head and final norm, two layers' and two layers' experts.
TEST(Together, SlotsAreAsFewAsAreUsedAtOnce) {
  const nn::Decoder decoder = make_tiny();
  int64_t ends = 0, layers = 0, experts = 0;
  const auto bytes = [](const nn::Unit* unit) { return 8 * unit->layout().padded(1); };
  for (const nn::Layer& l : decoder.layers) {
    layers = std::max(layers, bytes(l.dense));
    if (l.experts) experts = std::max(experts, bytes(l.experts));
  }
  for (const nn::Unit* unit : {decoder.embedding_unit, decoder.final_unit, decoder.head_unit})
    ends += bytes(unit);
  EXPECT_EQ(run(tiny_config(), true, true).slots, ends + 2 * layers + 2 * experts);
  EXPECT_EQ(run(tiny_config(), true, false).slots, 0);
}

}  // namespace
}  // namespace conclave::parallel
