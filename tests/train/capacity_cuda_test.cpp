// Steps on a GPU whose experts' rows are exchanged in fixed numbers: the bits of those that know
// the numbers, with no wait for the device, whatever lies in the rows that are not there.
#include <c10/cuda/CUDAFunctions.h>
#include <gtest/gtest.h>

#include "comm/dispatch_capacity.h"
#include "ops/cuda_testing.h"
#include "train/on_gpu.h"
#include "train/step.h"

namespace conclave::train {
namespace {

using namespace parallel::testing;
using namespace testing;

constexpr int kRows = 4;
const StepOptions kOptions{.lr = 1e-3, .clip_norm = 0.5, .bias_rate = 1e-3, .mtp_weight = 0.3};

struct Trained : TrainedOnDevice {
  explicit Trained(const std::string& family)
      : TrainedOnDevice(family, at::kBFloat16, at::kCUDA), fixed(*comm) {
    const auto facts = decoder.layers.back().facts;
    load = {kRows * 64, kRows * 64 * facts.top_k};
  }

  StepFigures launch(comm::Dispatcher& over, int index) {
    std::vector<parallel::Batch> rows{shipped_rows(kRows, /*joined=*/true, 2 * index),
                                      shipped_rows(kRows, /*joined=*/true, 2 * index + 1)};
    return step(decoder, units, over, optimizer, std::move(rows), kOptions);
  }

  comm::CapacityDispatcher fixed;
  comm::Capacity load;  // what any routing of one rank needs
};

// Throws where the host waits for the device, as long as it lives.
class NoWaits {
 public:
  NoWaits() { c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR); }
  ~NoWaits() {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
  }
};

class CapacityOnGpu : public ::testing::TestWithParam<std::string> {};

TEST_P(CapacityOnGpu, StepsWaitForNothingAndHaveTheSameBits) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic mode;
  Trained known(GetParam()), m(GetParam());
  m.fixed.set_capacity({m.load.peer_rows + 37, m.load.expert_rows + 333});
  std::vector<StepResult> want;
  for (int i = 0; i < 4; ++i) want.push_back(known.launch(known.dispatcher, i).wait());
  EXPECT_FALSE(m.launch(m.fixed, 0).wait().left_out);  // libraries set themselves up
  std::vector<StepFigures> launched;
  for (int i = 1; i < 4; ++i) {
    ops::testing::poison_freed_cuda_memory();
    const NoWaits none;
    launched.push_back(m.launch(m.fixed, i));
  }
  for (int i = 1; i < 4; ++i) {
    const StepResult got = launched[static_cast<size_t>(i) - 1].wait();
    EXPECT_FALSE(got.left_out || got.skipped);
    EXPECT_EQ(got.loss, want[static_cast<size_t>(i)].loss) << "step " << i;
    EXPECT_EQ(got.grad_norm, want[static_cast<size_t>(i)].grad_norm) << "step " << i;
    EXPECT_EQ(got.load, m.load);
  }
  expect_same(m.state(), known.state());
}

TEST_P(CapacityOnGpu, StepsThatLeaveRowsOutChangeNothingAndAreRunAgain) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic mode;
  Trained known(GetParam()), m(GetParam());
  known.launch(known.dispatcher, 0).wait();
  m.launch(m.dispatcher, 0).wait();
  const auto before = m.state();
  for (const comm::Capacity& little :
       {comm::Capacity{m.load.peer_rows - 1, m.load.expert_rows},
        comm::Capacity{m.load.peer_rows, m.load.expert_rows - 1}, comm::Capacity{1, 1}}) {
    m.fixed.set_capacity(little);
    const StepFigures one = m.launch(m.fixed, 1);
    m.fixed.set_capacity(m.load);
    const StepFigures two = m.launch(m.fixed, 2);
    EXPECT_TRUE(one.wait().left_out);
    EXPECT_TRUE(two.wait().left_out);
    EXPECT_EQ(one.wait().load, m.load);
    EXPECT_EQ(m.optimizer.steps(), 1);
    expect_same(m.state(), before);
    m.fixed.clear();
  }
  for (int i = 1; i < 3; ++i) {
    EXPECT_FALSE(m.launch(m.fixed, i).wait().left_out);
    known.launch(known.dispatcher, i).wait();
  }
  expect_same(m.state(), known.state());
}

INSTANTIATE_TEST_SUITE_P(Families, CapacityOnGpu, ::testing::ValuesIn(shipped_families()),
                         gpu_test_name);

}  // namespace
}  // namespace conclave::train
