// A tiny model of a family in training, on a device: what tests of steps on a GPU share.
#pragma once
#include <gtest/gtest.h>

#include "optim/adamw.h"
#include "parallel/families_on_gpu.h"

namespace conclave::train::testing {

struct TrainedOnDevice : parallel::testing::OnDevice {
  TrainedOnDevice(const std::string& family, at::ScalarType dtype, at::Device device,
                  OnDevice* like = nullptr)
      : OnDevice(parallel::testing::shipped_config(family), dtype, device, like),
        optimizer(make_adamw(units)) {}

  static optim::AdamW make_adamw(parallel::Units& units) {
    std::vector<optim::FlatShard> shards;
    for (const auto& s : units.shards())
      shards.push_back({s.weights, s.grad, s.decay_ranges, s.unit->trained()});
    return {optim::AdamWConfig{}, std::move(shards)};
  }

  // All that a checkpoint holds of it, on the CPU.
  std::vector<at::Tensor> state() {
    std::vector<at::Tensor> all;
    for (size_t i = 0; i < units.shards().size(); ++i)
      for (const at::Tensor& t :
           {units.shards()[i].weights, optimizer.m(i), optimizer.v(i), optimizer.lo(i)})
        if (t.defined()) all.push_back(t.cpu().clone());
    return all;
  }

  optim::AdamW optimizer;
};

inline void expect_same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(parallel::testing::same_bits(a[i], b[i])) << "tensor " << i;
}

}  // namespace conclave::train::testing
