// Attention on the GPU at the models' shapes, plain and in deterministic mode: `attention_bench
// [PART OF A NAME]`. Prints a line of JSON for each, the device first; times are medians over
// rounds of random order. FLOPs are those of the scores that are seen.
#include <ATen/Context.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <vector>

#include "beside_copy.h"
#include "ops/attention.h"

namespace {
using namespace conclave;
using namespace conclave::bench;

constexpr int64_t kLength = 4096;

struct Shape {
  const char* name;
  int64_t documents, heads, kv_heads, head_dim, v_dim, window;
  bool sinks;
};
constexpr Shape kShapes[] = {{"qwen3-30b", 2, 32, 4, 128, 128, 0, false},
                             {"gpt-oss", 2, 64, 8, 64, 64, 0, true},
                             {"gpt-oss/window", 2, 64, 8, 64, 64, 128, true},
                             {"deepseek-v3", 1, 128, 128, 192, 128, 0, false}};

struct Row {
  std::string name;
  double flops;
  std::function<void()> run;
  std::vector<float> times{};
};

double forward_flops(const Shape& s) {
  const double length = kLength, w = s.window ? static_cast<double>(s.window) : length,
               seen = w * (w + 1) / 2 + (length - w) * w;
  return 2 * static_cast<double>(s.documents * s.heads * (s.head_dim + s.v_dim)) * seen;
}

void add(std::vector<Row>& rows, const Shape& s) {
  const int64_t tokens = s.documents * kLength;
  auto normal = [&](int64_t heads, int64_t dim) {
    return at::randn({tokens, heads, dim}, gpu(at::kBFloat16));
  };
  const at::Tensor q = normal(s.heads, s.head_dim), k = normal(s.kv_heads, s.head_dim),
                   v = normal(s.kv_heads, s.v_dim), dout = normal(s.heads, s.v_dim);
  const ops::AttentionOptions options{
      1 / std::sqrt(static_cast<double>(s.head_dim)), s.window,
      s.sinks ? at::randn({s.heads}, gpu(at::kBFloat16)) : at::Tensor()};
  std::vector<int64_t> docs;
  for (int64_t d = 0; d <= s.documents; ++d) docs.push_back(d * kLength);
  const ops::Attention made = ops::attention(q, k, v, docs, docs, options);
  for (const bool deterministic : {false, true}) {
    const std::string mode = deterministic ? "/deterministic" : "";
    auto in_mode = [=](auto f) {
      return [=] {
        at::globalContext().setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
        f();
      };
    };
    rows.push_back({std::string("forward/") + s.name + mode, forward_flops(s),
                    in_mode([=] { ops::attention(q, k, v, docs, docs, options); })});
    rows.push_back({std::string("backward/") + s.name + mode, 2.5 * forward_flops(s), in_mode([=] {
                      ops::attention_backward(dout, q, k, v, made.out, made.lse, docs, docs,
                                              options);
                    })});
  }
}

void measure(std::vector<Row>& rows) {
  Clock clock;
  std::mt19937 random(1);
  std::vector<size_t> order;
  for (size_t i = 0; i < rows.size(); ++i) order.push_back(i);
  for (int round = 0; round < kWarmUp + kRounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t i : order) {
      const float ms = clock.ms([] {}, rows[i].run);
      if (round >= kWarmUp) rows[i].times.push_back(ms);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (!at::hasCUDA()) {
    std::puts("skipped: no GPU here");
    return 77;
  }
  c10::InferenceMode no_autograd;
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // as in training
  cudaDeviceProp device{};
  cudaGetDeviceProperties(&device, 0);
  std::printf("{\"device\": \"%s\"}\n", device.name);
  std::vector<Row> rows;
  for (const Shape& s : kShapes) add(rows, s);
  const std::string only = argc > 1 ? argv[1] : "";
  std::erase_if(rows, [&](const Row& r) { return r.name.find(only) == std::string::npos; });
  measure(rows);
  for (const Row& r : rows)
    std::printf("{\"attention\": \"%s\", \"us\": %.1f, \"tflops\": %.0f}\n", r.name.c_str(),
                1e3 * median(r.times), r.flops / median(r.times) / 1e9);
}
