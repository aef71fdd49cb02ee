// Optimizer steps on a GPU: as on the CPU, skipped without the host's knowledge, gone on from a
// checkpoint, recorded, and repeated, bit for bit.
#include <gtest/gtest.h>

#include <cstdio>
#include <limits>

#include "base/error.h"
#include "base/temp_folder.h"
#include "checkpoint/writer.h"
#include "train/captured_step.h"
#include "train/on_gpu.h"
#include "train/state.h"

namespace conclave::train {
namespace {

using namespace parallel::testing;
using namespace testing;

constexpr double kRate = 1e-3;
const StepOptions kOptions{.lr = kRate, .clip_norm = 0.5, .bias_rate = 1e-3, .mtp_weight = 0.3};

struct Trained : TrainedOnDevice {
  using TrainedOnDevice::TrainedOnDevice;

  // Step 0, 1, …, each on other rows, in two micro-batches.
  StepResult step_on(int index, bool joined = false) {
    return step(decoder, units, dispatcher, optimizer, rows(index, joined), kOptions).wait();
  }
  static std::vector<parallel::Batch> rows(int index, bool joined) {
    return {shipped_rows(4, joined, 2 * index), shipped_rows(2, joined, 2 * index + 1)};
  }
};

class StepsOnGpu : public ::testing::TestWithParam<std::string> {};

TEST_P(StepsOnGpu, ThreeAreTheCpus) {
  CONCLAVE_NEEDS_GPU();
  Trained cpu(GetParam(), at::kFloat, at::kCPU), gpu(GetParam(), at::kFloat, at::kCUDA, &cpu);
  for (int i = 0; i < 3; ++i) {
    const StepResult want = cpu.step_on(i), got = gpu.step_on(i);
    EXPECT_FALSE(got.skipped);
    EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss) << "step " << i;
    EXPECT_NEAR(got.mtp_loss, want.mtp_loss, 1e-5 * want.mtp_loss) << "step " << i;
    EXPECT_NEAR(got.aux, want.aux, 1e-5 * want.aux) << "step " << i;
    EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-4 * want.grad_norm) << "step " << i;
    EXPECT_EQ(got.max_load, want.max_load) << "step " << i;
    EXPECT_EQ(got.scored, want.scored);
    EXPECT_GT(got.seconds, 0);
    EXPECT_LT(got.seconds, 60);
  }
  EXPECT_EQ(gpu.optimizer.steps(), 3);
}

TEST_P(StepsOnGpu, Bf16WithAMasterFollowsFp32) {
  CONCLAVE_NEEDS_GPU();
  Trained narrow(GetParam(), at::kBFloat16, at::kCUDA),
      wide(GetParam(), at::kFloat, at::kCUDA, &narrow);
  double first = 0, got = 0, want = 0;
  for (int i = 0; i < 20; ++i) {  // the same rows: they are learned
    got = narrow.step_on(0).loss, want = wide.step_on(0).loss;
    if (i == 0) first = want;
  }
  EXPECT_LT(want, 0.97 * first);
  EXPECT_NEAR(got, want, 0.02 * want);
  std::printf("%s: loss %.4f, after 20 steps fp32 %.4f, bf16 %.4f\n", GetParam().c_str(), first,
              want, got);
}

TEST_P(StepsOnGpu, ASkippedStepChangesNothing) {
  CONCLAVE_NEEDS_GPU();
  for (auto dtype : {at::kFloat, at::kBFloat16}) {
    Trained m(GetParam(), dtype, at::kCUDA);
    EXPECT_FALSE(m.step_on(0).skipped);
    const at::Tensor weight = m.decoder.final_norm->data()[0];
    const at::Tensor good = weight.clone();
    weight.fill_(std::numeric_limits<double>::quiet_NaN());
    const auto before = m.state();
    EXPECT_TRUE(m.step_on(1).skipped);
    EXPECT_EQ(m.optimizer.steps(), 1);
    expect_same(m.state(), before);
    weight.copy_(good);
    EXPECT_FALSE(m.step_on(1).skipped);
    EXPECT_EQ(m.optimizer.steps(), 2);
  }
}

TEST_P(StepsOnGpu, GoOnFromACheckpointWithTheSameBits) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic mode;
  for (auto dtype : {at::kFloat, at::kBFloat16}) {
    const TempFolder folder;
    Trained a(GetParam(), dtype, at::kCUDA);
    for (int i = 0; i < 2; ++i) a.step_on(i);
    auto contents = contents_of(a.units, a.optimizer, {.step = 2});
    contents.config_json = "{}";
    checkpoint::BackgroundWriter writer;
    writer.submit(std::move(contents), [&](const checkpoint::FolderContents& c) {
      checkpoint::save_folder(folder / "step", c);
    });
    const StepResult want = a.step_on(2);  // while it is written
    writer.finish();
    Trained b(GetParam(), dtype, at::kCUDA);
    const TrainState state = restore(folder / "step", b.units, b.optimizer);
    EXPECT_EQ(state.step, 2);
    EXPECT_EQ(b.optimizer.steps(), 2);
    const StepResult got = b.step_on(2);
    EXPECT_EQ(got.loss, want.loss);
    EXPECT_EQ(got.grad_norm, want.grad_norm);
    expect_same(b.state(), a.state());
  }
}

TEST_P(StepsOnGpu, TwentyTwiceAreTheSameBitsInDeterministicMode) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic mode;
  std::vector<at::Tensor> first;
  std::vector<double> losses;
  for (int run = 0; run < 2; ++run) {
    Trained m(GetParam(), at::kBFloat16, at::kCUDA);
    for (int i = 0; i < 20; ++i) {
      const double loss = m.step_on(i).loss;
      if (run == 0)
        losses.push_back(loss);
      else
        EXPECT_EQ(loss, losses[static_cast<size_t>(i)]) << "step " << i;
    }
    if (run == 0)
      first = m.state();
    else
      expect_same(m.state(), first);
  }
}

TEST_P(StepsOnGpu, RecordedOnesAreTheSameBits) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic mode;
  Trained plain(GetParam(), at::kBFloat16, at::kCUDA),
      recorded(GetParam(), at::kBFloat16, at::kCUDA);
  CapturedStep captured(recorded.decoder, recorded.units, recorded.dispatcher, recorded.optimizer,
                        kOptions);
  for (int i = 0; i < 8; ++i) {
    const bool other = i == 6;  // documents in another way: not the recorded step
    const auto rows = [&] {
      auto batches = Trained::rows(i, /*joined=*/true);
      if (other) batches[1] = shipped_rows(2);
      return batches;
    };
    const double lr = kRate / (1 + i);
    StepOptions options = kOptions;
    options.lr = lr;
    const StepResult want = step(plain.decoder, plain.units, plain.dispatcher, plain.optimizer,
                                 rows(), options)
                                .wait(),
                     got = captured.run(rows(), lr).wait();
    EXPECT_EQ(got.loss, want.loss) << "step " << i;
    EXPECT_EQ(got.mtp_loss, want.mtp_loss) << "step " << i;
    EXPECT_EQ(got.grad_norm, want.grad_norm) << "step " << i;
    EXPECT_EQ(got.max_load, want.max_load) << "step " << i;
    EXPECT_EQ(got.scored, want.scored) << "step " << i;
  }
  expect_same(recorded.state(), plain.state());
  EXPECT_EQ(recorded.optimizer.steps(), 8);
  EXPECT_EQ(captured.replayed(), 8 - Recording::kWarmUp - 1);
}

TEST_P(StepsOnGpu, ARecordingRefusesWhatItCannotFollow) {
  CONCLAVE_NEEDS_GPU();
  Trained m(GetParam(), at::kBFloat16, at::kCUDA);
  CapturedStep captured(m.decoder, m.units, m.dispatcher, m.optimizer, kOptions);
  EXPECT_THROW(captured.run({shipped_rows(4)}, kRate), RunError);
  Trained wide(GetParam(), at::kFloat, at::kCUDA);
  EXPECT_THROW(CapturedStep(wide.decoder, wide.units, wide.dispatcher, wide.optimizer, kOptions),
               c10::Error);
}

INSTANTIATE_TEST_SUITE_P(Families, StepsOnGpu, ::testing::ValuesIn(shipped_families()),
                         gpu_test_name);

}  // namespace
}  // namespace conclave::train
