// With weights gathered into slots and rows sent on lanes beside the compute stream, random delays
// on each stream and slots filled with NaN when they are given back, training steps have the bits
// that they have without.
#include <gtest/gtest.h>

#include "ops/delay.h"
#include "parallel/families_on_gpu.h"
#include "parallel/together.h"

namespace conclave::parallel {
namespace {

using namespace testing;

// One rank that gathers, and a dispatcher that sends, on another stream and leave the wait for it
// out.
class CarelessComm final : public comm::Comm {
 public:
  CarelessComm() { lane_.open("careless", at::Device(at::kCUDA, 0), {}); }
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_gather(at::Tensor out, const at::Tensor& in) override {
    on_way_.push_back(
        lane_.start([&] { ops::delay(in.device(), 2000), out.copy_(in); }, {in, out}));
  }
  void reduce_scatter(at::Tensor out, const at::Tensor& in) override { out.copy_(in); }
  void all_reduce(at::Tensor) override {}
  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t>,
                  std::span<const int64_t>) override {
    out.copy_(in);
  }
  void barrier() override {}

 private:
  comm::Lane lane_;
  std::vector<comm::OnWay> on_way_;
};

class CarelessDispatcher final : public comm::LocalDispatcher {
 public:
  CarelessDispatcher() { beside_.open("careless", at::Device(at::kCUDA, 0), {}); }
  at::Tensor dispatch(const comm::Dispatch& to, const at::Tensor& x) override {
    at::Tensor rows;
    on_way_.push_back(beside_.start(
        [&] { ops::delay(x.device(), 2000), rows = LocalDispatcher::dispatch(to, x); }, {x}));
    return rows;
  }

 private:
  comm::Lane beside_;
  std::vector<comm::OnWay> on_way_;
};

struct How {
  bool release = false, lanes = false, together = false;
  bool careless_comm = false, careless_dispatcher = false;
  int delays = 0;  // seed; 0: none
  std::set<std::string> recompute = {};
};

// Gradients of two micro-batches in bf16, one after the other or together, on the CPU.
std::vector<at::Tensor> gradients(const std::string& family, OnDevice& like, const How& how) {
  const std::string delays = std::to_string(how.delays) + ":400";
  if (how.delays) setenv("CONCLAVE_DELAYS", delays.c_str(), /*overwrite=*/1);
  const at::Device gpu(at::kCUDA, 0);
  OnDevice m(shipped_config(family), at::kBFloat16, gpu, &like,
             {.release_after_use = how.release, .overlap = how.lanes, .poison = true},
             how.careless_comm ? std::unique_ptr<comm::Comm>(new CarelessComm) : comm::single());
  CarelessDispatcher careless;
  comm::Dispatcher& dispatcher =
      how.careless_dispatcher ? static_cast<comm::Dispatcher&>(careless) : m.dispatcher;
  if (how.lanes) dispatcher.lane().open("rows", gpu);
  unsetenv("CONCLAVE_DELAYS");
  RunOptions run{.recompute = how.recompute, .loss_seed = 1.0 / 248, .mtp_weight = 0.3};
  const auto batch = [&](int seed) { return to_device(shipped_rows(4, false, seed), gpu); };
  std::vector<at::Tensor> out;
  for (int step = 0; step < 2; ++step) {
    m.units.zero_grads();
    MicroBatch a(m.decoder, m.units, dispatcher, batch(step), run);
    run.last = true;
    MicroBatch b(m.decoder, m.units, dispatcher, batch(step + 2), run);
    if (how.together) {
      forward_together(a, b), backward_together(a, b);
    } else {
      a.forward(), a.backward(), b.forward(), b.backward();
    }
    m.units.reduce_grads();
    for (const auto& s : m.units.shards())
      if (s.unit->trained()) out.push_back(s.grad.cpu());
    m.units.weights_changed();
  }
  return out;
}

class Overlap : public ::testing::TestWithParam<std::string> {};

TEST_P(Overlap, GivesTheSameBits) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic deterministic;
  OnDevice like(shipped_config(GetParam()), at::kBFloat16, at::kCUDA);
  for (bool together : {false, true}) {
    const auto want = gradients(GetParam(), like, {.together = together});
    for (const How& how :
         {How{.lanes = true}, How{.release = true, .lanes = true},
          How{.release = true, .lanes = true, .delays = 1},
          How{.release = true, .lanes = true, .delays = 2},
          How{.release = true, .lanes = true, .delays = 3, .recompute = {"norm", "dispatch"}}}) {
      How this_way = how;
      this_way.together = together;
      const auto got = gradients(GetParam(), like, this_way);
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < want.size(); ++i)
        EXPECT_TRUE(same_bits(got[i], want[i]))
            << "gradient " << i << ", together " << together << ", released " << how.release
            << ", delays " << how.delays;
    }
  }
}

// So that the test above would see it.
TEST_P(Overlap, AWaitThatIsLeftOutGivesOthers) {
  CONCLAVE_NEEDS_GPU();
  const Deterministic deterministic;
  OnDevice like(shipped_config(GetParam()), at::kBFloat16, at::kCUDA);
  const auto want = gradients(GetParam(), like, {.release = true, .lanes = true});
  for (const How& how : {How{.release = true, .lanes = true, .careless_comm = true},
                         How{.release = true, .lanes = true, .careless_dispatcher = true}}) {
    const auto got = gradients(GetParam(), like, how);
    int others = 0;
    for (size_t i = 0; i < want.size(); ++i) others += !same_bits(got[i], want[i]);
    EXPECT_GT(others, 0) << (how.careless_comm ? "gathering" : "dispatching");
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Overlap,
                         ::testing::Values("qwen3_moe_30b", "gptoss_20b", "deepseek_v3"),
                         gpu_test_name);

}  // namespace
}  // namespace conclave::parallel
