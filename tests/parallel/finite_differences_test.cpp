// Every gradient of whole models against differences of their losses.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "parallel/seeded.h"

namespace conclave::parallel {
namespace {

using testing::batch;
using testing::number;
using testing::options;
using testing::Tiny;

double total_loss(Tiny& tiny, Batch b) {
  const RunOptions run = options();
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, std::move(b), run);
  micro.forward();
  const auto modules = static_cast<double>(std::max<size_t>(tiny.decoder.mtp.size(), 1));
  return (number(micro.loss_sum()) + run.mtp_weight / modules * number(micro.mtp_loss_sum())) *
             run.loss_seed +
         number(micro.aux());
}

void expect_finite_differences(const nlohmann::json& config) {
  Tiny tiny({}, config);
  MicroBatch micro(tiny.decoder, tiny.units, tiny.dispatcher, batch(0, 4), options());
  micro.forward();
  micro.backward();
  EXPECT_GT(number(micro.aux()), 0);
  std::map<std::string, at::Tensor> gradients;  // a forward with labels adds to the head's
  for (const auto& unit : tiny.decoder.units)
    for (const auto& w : unit->weights())
      if (unit->trained()) gradients[w->name()] = w->grad().clone().view({-1});
  const double h = 1e-4;
  for (const auto& unit : tiny.decoder.units)
    for (const auto& w : unit->weights()) {
      if (!unit->trained()) continue;
      double* data = unit->data().mutable_data_ptr<double>() + w->at().begin;
      const at::Tensor grad = gradients.at(w->name());
      const int64_t n = w->numel(), most = grad.abs().argmax().item().toLong();
      for (int64_t i : {most, int64_t{0}, n / 3, 2 * n / 3, n - 1}) {
        const double at = data[i];
        auto loss = [&](double step) {
          data[i] = at + step * h;
          return total_loss(tiny, batch(0, 4));
        };
        const double want = (loss(-2) - 8 * loss(-1) + 8 * loss(1) - loss(2)) / (12 * h);
        data[i] = at;
        const double got = grad.const_data_ptr<double>()[i];
        EXPECT_NEAR(got, want, 1e-6 * std::abs(want) + 1e-10) << w->name() << " entry " << i;
      }
    }
}

class EveryGradient : public ::testing::TestWithParam<testing::TinyFamily> {};
INSTANTIATE_TEST_SUITE_P(Families, EveryGradient, ::testing::ValuesIn(testing::kTinyFamilies),
                         testing::name_of);

TEST_P(EveryGradient, IsAFiniteDifference) { expect_finite_differences(GetParam().config()); }

TEST(Gradients, AreFiniteDifferencesWithTwoModulesAndATiedHead) {
  auto config = testing::tiny_deepseek();
  config["tie_word_embeddings"] = true;
  config["num_nextn_predict_layers"] = 2;
  config["q_lora_rank"] = nullptr;
  expect_finite_differences(config);
}

TEST(Gradients, AreFiniteDifferencesWithATiedHead) {
  auto config = testing::tiny_config();
  config["tie_word_embeddings"] = true;
  config["norm_topk_prob"] = false;
  expect_finite_differences(config);
}

}  // namespace
}  // namespace conclave::parallel
