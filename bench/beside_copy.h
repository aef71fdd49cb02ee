// Ops on the GPU, each beside a copy of as many bytes in the same run. Times are medians over
// rounds of random order, by CUDA events; before each the L2 cache is filled with something else by
// reading it, so that nothing waits for its lines to be written back.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "ops/adamw.h"

namespace conclave::bench {

constexpr int kRounds = 15, kWarmUp = 2;

struct Item {
  std::string name;
  double bytes;  // that must be read and written
  std::function<void()> run, prepare = [] {};
  std::vector<float> times{}, copies{};  // ms
};

inline at::TensorOptions gpu(at::ScalarType dtype) {
  return at::TensorOptions(at::kCUDA).dtype(dtype);
}

// Which items there are: closures share their tensors, which are made when an item is (so only
// those that were asked for take memory).
class Items {
 public:
  explicit Items(std::string only) : only_(std::move(only)) {}

  // make(item) fills in bytes and run.
  void add(const std::string& name, const std::function<void(Item&)>& make) {
    if (name.find(only_) == std::string::npos) return;
    Item item{name, 0, {}};
    make(item);
    items.push_back(std::move(item));
  }
  std::vector<Item> items;

 private:
  std::string only_;
};

class Clock {
 public:
  Clock() {
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }
  ~Clock() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Clock(const Clock&) = delete;
  // Queues the flush first, so the device is still busy with it when `run` is.
  float ms(const std::function<void()>& prepare, const std::function<void()>& run) {
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    prepare();
    ops::add_squared_sum_(sum_, other_);
    cudaEventRecord(begin_, stream);
    run();
    cudaEventRecord(end_, stream);
    const cudaError_t error = cudaEventSynchronize(end_);
    TORCH_CHECK(error == cudaSuccess, "kernels_bench: ", cudaGetErrorString(error));
    float ms = 0;
    cudaEventElapsedTime(&ms, begin_, end_);
    return ms;
  }

 private:
  cudaEvent_t begin_{}, end_{};
  at::Tensor other_ = at::zeros({int64_t{1} << 27}, gpu(at::kFloat));  // 512 MiB
  at::Tensor sum_ = at::zeros({1}, gpu(at::kDouble));
};

inline float median(std::vector<float> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<long>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

inline void measure(std::vector<Item>& items) {
  Clock clock;
  double most = 0;
  for (const Item& i : items) most = std::max(most, i.bytes);
  const auto half = static_cast<int64_t>(most / 2) + 1;
  const at::Tensor from = at::randint(256, {half}, gpu(at::kByte)), to = at::empty_like(from);
  std::vector<std::pair<size_t, bool>> order;  // item, and whether it is its copy's turn
  for (size_t i = 0; i < items.size(); ++i) order.insert(order.end(), {{i, false}, {i, true}});
  std::mt19937 random(1);
  for (int round = 0; round < kWarmUp + kRounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (auto [at, copy] : order) {
      Item& i = items[at];
      const auto n = static_cast<int64_t>(i.bytes / 2);
      const float ms =
          copy ? clock.ms([] {}, [&] { to.narrow(0, 0, n).copy_(from.narrow(0, 0, n)); })
               : clock.ms(i.prepare, i.run);
      if (round >= kWarmUp) (copy ? i.copies : i.times).push_back(ms);
    }
  }
}

inline void print(const Item& i) {
  const double ms = median(i.times), copy = median(i.copies);
  std::printf(
      "{\"kernel\": \"%s\", \"bytes\": %.0f, \"us\": %.1f, \"gb_per_s\": %.0f, \"copy_us\": %.1f, "
      "\"copy_gb_per_s\": %.0f, \"of_copy\": %.3f}\n",
      i.name.c_str(), i.bytes, 1e3 * ms, i.bytes / ms / 1e6, 1e3 * copy, i.bytes / copy / 1e6,
      copy / ms);
}

// A few at a time, so that the largest fit beside each other.
inline void run(const std::function<void(Items&)>& make, const std::string& only) {
  Items items(only);
  make(items);
  if (items.items.empty()) return;
  measure(items.items);
  for (const Item& i : items.items) print(i);
  std::fflush(stdout);
}

}  // namespace conclave::bench
