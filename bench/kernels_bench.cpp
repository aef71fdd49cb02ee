// Memory-bound ops on the GPU at the models' sizes, each beside a copy of as many bytes in the same
// run: `kernels_bench [PART OF A NAME]`. Prints a line of JSON for each, the device first. Times
// are medians over rounds of random order, by CUDA events; before each the L2 cache is filled with
// something else by reading it, so that nothing waits for its lines to be written back.
#include <ATen/Context.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cross_entropy.h"
#include "ops/adamw.h"
#include "ops/dispatch.h"
#include "ops/embedding.h"
#include "ops/head_norm_rotary.h"
#include "ops/norm.h"
#include "ops/random.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace {
using namespace conclave;

constexpr int64_t kTokens = 16384;
constexpr int kRounds = 15, kWarmUp = 2;

struct Item {
  std::string name;
  double bytes;  // that must be read and written
  std::function<void()> run, prepare = [] {};
  std::vector<float> times{}, copies{};  // ms
};

at::TensorOptions gpu(at::ScalarType dtype) { return at::TensorOptions(at::kCUDA).dtype(dtype); }
at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype = at::kBFloat16) {
  return at::randn(sizes, gpu(dtype));
}
double bytes_of(std::initializer_list<at::Tensor> tensors) {
  double sum = 0;
  for (const at::Tensor& t : tensors) sum += static_cast<double>(t.nbytes());
  return sum;
}

struct Model {
  const char* name;
  int64_t hidden, top_k, ffn, experts, vocab;
  ops::Activation activation;
};
constexpr Model kModels[] = {
    {"qwen3-30b", 2048, 8, 768, 128, 151936, ops::Activation::swiglu},
    {"gpt-oss", 2880, 4, 2880, 32, 201088, ops::Activation::clamped_swiglu},
    {"deepseek-v3", 7168, 8, 2048, 256, 129280, ops::Activation::swiglu}};

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

void norms(Items& items, const Model& m) {
  const std::string at = std::string("/") + m.name;
  items.add("rms_norm" + at, [&](Item& i) {
    const at::Tensor x = normal({kTokens, m.hidden}), w = normal({m.hidden});
    i.bytes = 2 * bytes_of({x});
    i.run = [=] { ops::rms_norm(x, w, 1e-6); };
  });
  items.add("add_rms_norm" + at, [&](Item& i) {
    const at::Tensor x = normal({kTokens, m.hidden}), r = normal({kTokens, m.hidden}),
                     w = normal({m.hidden});
    i.bytes = 4 * bytes_of({x});
    i.run = [=] { ops::add_rms_norm(x, r, w, 1e-6); };
  });
  for (bool with_sum : {false, true})
    items.add((with_sum ? "rms_norm_backward+dsum" : "rms_norm_backward") + at, [&](Item& i) {
      const at::Tensor x = normal({kTokens, m.hidden}), dy = normal({kTokens, m.hidden}),
                       w = normal({m.hidden}), rstd = ops::rms_norm(x, w, 1e-6).rstd,
                       dsum = with_sum ? normal({kTokens, m.hidden}) : at::Tensor();
      i.bytes = (with_sum ? 4 : 3) * bytes_of({x});
      i.run = [=] { ops::rms_norm_backward(dy, x, rstd, w, dsum); };
    });
}

void rotaries(Items& items) {
  const at::Tensor positions = at::randint(4096, {kTokens}, gpu(at::kLong));
  auto table = [](int64_t dim) {
    const ops::RotaryTable t = ops::rotary_table(4096, dim, {.theta = 1e6}, at::kFloat);
    return ops::RotaryTable{t.cos.cuda(), t.sin.cuda()};
  };
  for (int64_t heads : {32, 4}) {
    const std::string at = "/qwen3-30b, " + std::to_string(heads) + " heads";
    items.add("head_norm_rotary" + at, [&](Item& i) {
      const at::Tensor x = normal({kTokens, heads, 128}), w = normal({128});
      i.bytes = 2 * bytes_of({x});
      i.run = [=, t = table(128)] { ops::head_norm_rotary(x, w, 1e-6, positions, t); };
    });
    items.add("head_norm_rotary_backward" + at, [&](Item& i) {
      const at::Tensor x = normal({kTokens, heads, 128}), dy = normal({kTokens, heads, 128}),
                       w = normal({128});
      const ops::RotaryTable t = table(128);
      const at::Tensor rstd = ops::head_norm_rotary(x, w, 1e-6, positions, t).rstd;
      i.bytes = 3 * bytes_of({x});
      i.run = [=] { ops::head_norm_rotary_backward(dy, x, rstd, w, positions, t); };
    });
  }
  items.add("rotary/gpt-oss, 64 heads", [&](Item& i) {
    const at::Tensor x = normal({kTokens, 64, 64});
    i.bytes = 2 * bytes_of({x});
    i.run = [=, t = table(64)] { ops::rotary(x, positions, t); };
  });
  items.add("rotary/deepseek-v3, 64 of 192 interleaved, 128 heads", [&](Item& i) {
    const at::Tensor x = normal({kTokens, 128, 192});
    i.bytes = 2 * bytes_of({x});
    i.run = [=, t = table(64)] { ops::rotary(x, positions, t, ops::RotaryForm::interleaved, 128); };
  });
}

void experts(Items& items, const Model& m) {
  const std::string at = std::string("/") + m.name;
  const int64_t rows = kTokens * m.top_k;
  items.add("swiglu" + at, [&](Item& i) {
    const at::Tensor h = normal({rows, 2 * m.ffn}), w = normal({rows}, at::kFloat);
    i.bytes = 1.5 * bytes_of({h}) + bytes_of({w});
    i.run = [=, a = m.activation] { ops::swiglu(h, w, a); };
  });
  items.add("swiglu_backward" + at, [&](Item& i) {
    const at::Tensor h = normal({rows, 2 * m.ffn}), w = normal({rows}, at::kFloat),
                     dy = normal({rows, m.ffn});
    i.bytes = 2 * bytes_of({h}) + bytes_of({dy}) + 2 * bytes_of({w});
    i.run = [=, a = m.activation] { ops::swiglu_backward(dy, h, w, a); };
  });
  // Random experts, expert-major: a stable sort of the chosen ones.
  const at::Tensor chosen = at::randn({kTokens, m.experts}, gpu(at::kFloat))
                                .argsort(1, /*descending=*/true)
                                .slice(1, 0, m.top_k)
                                .flatten();
  const at::Tensor pair = at::argsort(chosen, /*stable=*/true, 0, false), row = pair.argsort();
  const ops::ExpertLayout layout{
      {}, pair.to(at::kInt), row.to(at::kInt).view({kTokens, m.top_k}).contiguous()};
  items.add("gather_rows" + at, [&](Item& i) {
    const at::Tensor x = normal({kTokens, m.hidden});
    i.bytes = static_cast<double>(1 + m.top_k) * bytes_of({x}) + bytes_of({layout.row});
    i.run = [=] { ops::gather_rows(x, layout); };
  });
  items.add("gather_sum" + at, [&](Item& i) {
    const at::Tensor x = normal({rows, m.hidden});
    i.bytes = bytes_of({x}) * (1 + 1.0 / static_cast<double>(m.top_k)) + bytes_of({layout.row});
    i.run = [=] { ops::gather_sum(x, layout); };
  });
}

void vocabulary(Items& items, const Model& m) {
  const std::string at = std::string("/") + m.name;
  const at::Tensor ids = at::randint(m.vocab, {kTokens}, gpu(at::kLong));
  items.add("embedding" + at, [&](Item& i) {
    const at::Tensor w = normal({m.vocab, m.hidden});
    i.bytes = 2.0 * static_cast<double>(kTokens * m.hidden * 2);
    i.run = [=] { ops::embedding(ids, w); };
  });
  items.add("embedding_backward" + at, [&](Item& i) {
    const at::Tensor dw = at::zeros({m.vocab, m.hidden}, gpu(at::kFloat)),
                     dy = normal({kTokens, m.hidden});
    i.bytes = 5 * bytes_of({dy});  // dy, and fp32 rows that are read and written
    i.run = [=] { ops::embedding_backward_(dw, ids, dy); };
  });
  items.add("cross_entropy, softmax pass" + at, [&](Item& i) {
    constexpr int64_t kRows = 2048;
    const at::Tensor source = normal({kRows, m.vocab}), logits = at::empty_like(source),
                     losses = at::empty({kRows}, gpu(at::kDouble));
    i.bytes = 2 * bytes_of({logits});
    i.prepare = [=] { logits.copy_(source); };
    i.run = [=, vocab = m.vocab] {
      kernels::cross_entropy(losses.data_ptr<double>(),
                             static_cast<kernels::bf16*>(logits.data_ptr()),
                             ids.const_data_ptr<int64_t>(), 1e-4, true, {kRows, vocab, -100},
                             c10::cuda::getCurrentCUDAStream());
    };
  });
}

void optimizer(Items& items) {
  constexpr int64_t kN = int64_t{1} << 27;
  const ops::AdamWStep step{
      .lr = 1e-5, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 10};
  const std::vector<int64_t> decay{0, kN / 2, kN / 2 + 4096, kN};
  struct Kind {
    const char* name;
    bool master;
    at::ScalarType moments, gradients;
  };
  for (const Kind& k : {Kind{"adamw, split master, fp32 states", true, at::kFloat, at::kFloat},
                        {"adamw, split master, bf16 states", true, at::kBFloat16, at::kBFloat16},
                        {"adamw, bf16, bf16 states", false, at::kBFloat16, at::kBFloat16}})
    items.add(std::string(k.name) + "/134M", [&](Item& i) {
      const at::Tensor w = normal({kN}), lo = at::zeros({kN}, gpu(at::kShort)),
                       m = normal({kN}, k.moments), v = normal({kN}, k.moments).square(),
                       g = normal({kN}, k.gradients);
      i.bytes = 2 * bytes_of({w, m, v}) + bytes_of({g}) + (k.master ? 2 * bytes_of({lo}) : 0);
      i.run = [=, master = k.master] {
        if (master)
          ops::adamw_split_(w, lo, m, v, g, decay, step);
        else
          ops::adamw_(w, m, v, g, decay, step);
      };
    });
  for (auto [dtype, name] : {std::pair{at::kFloat, "fp32"}, {at::kBFloat16, "bf16"}})
    items.add(std::string("squared_sum, ") + name + "/268M", [&](Item& i) {
      const at::Tensor x = normal({2 * kN}, dtype), sum = at::zeros({1}, gpu(at::kDouble));
      i.bytes = bytes_of({x});
      i.run = [=] { ops::add_squared_sum_(sum, x); };
    });
  items.add("fill_normal, fp32/134M", [&](Item& i) {
    const at::Tensor x = at::empty({kN}, gpu(at::kFloat));
    i.bytes = bytes_of({x});
    i.run = [=] { ops::fill_normal_(x, 1, 2, 0, 0.02); };
  });
}

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

float median(std::vector<float> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<long>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

void measure(std::vector<Item>& items) {
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

void print(const Item& i) {
  const double ms = median(i.times), copy = median(i.copies);
  std::printf(
      "{\"kernel\": \"%s\", \"bytes\": %.0f, \"us\": %.1f, \"gb_per_s\": %.0f, \"copy_us\": %.1f, "
      "\"copy_gb_per_s\": %.0f, \"of_copy\": %.3f}\n",
      i.name.c_str(), i.bytes, 1e3 * ms, i.bytes / ms / 1e6, 1e3 * copy, i.bytes / copy / 1e6,
      copy / ms);
}

// A few at a time, so that the largest fit beside each other.
void run(const std::function<void(Items&)>& make, const std::string& only) {
  Items items(only);
  make(items);
  if (items.items.empty()) return;
  measure(items.items);
  for (const Item& i : items.items) print(i);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (!at::hasCUDA()) {
    std::puts("skipped: no GPU here");
    return 77;
  }
  c10::InferenceMode no_autograd;
  cudaDeviceProp device{};
  cudaGetDeviceProperties(&device, 0);
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"tokens\": %ld, \"rounds\": %d}\n",
              device.name, device.multiProcessorCount, static_cast<long>(kTokens), kRounds);
  const std::string only = argc > 1 ? argv[1] : "";
  for (const Model& m : kModels) {
    run([&](Items& i) { norms(i, m); }, only);
    run([&](Items& i) { experts(i, m); }, only);
    run([&](Items& i) { vocabulary(i, m); }, only);
  }
  run(rotaries, only);
  run(optimizer, only);
}
