// The experts' parts on one GPU at the rank shapes of Qwen3-30B (EP8), GPT-OSS-20B (EP8) and
// DeepSeek-V3 (EP64), beside what ATen has: a gather, at::_grouped_mm and SwiGLU. bf16, random
// data. The card is at its power limit in such kernels and what ran before a kernel moves its time
// by some percent, so candidates run in random order, round by round, and the median counts; a GEMM
// of 8192³ runs among them. Prints one JSON object a line: shape, what, ms, and TFLOP/s where it is
// a product. usage: experts_bench [--shape=NAME-PART] [--rounds=8] [--skew] (unequal loads of the
// experts)
#include <ATen/Context.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "ops/dispatch.h"
#include "ops/grouped_mlp.h"
#include "ops/matmul.h"
#include "ops/router.h"
#include "ops/swiglu.h"

namespace {

using namespace conclave;

struct Shape {
  const char* name;
  int64_t tokens, hidden, ffn, experts, top_k;
  bool gpt_oss = false;
};
constexpr Shape kShapes[] = {
    {"qwen3 8192", 8192, 2048, 768, 16, 8},
    {"qwen3 16384", 16384, 2048, 768, 16, 8},
    {"gpt-oss 8192", 8192, 2880, 2880, 4, 4, true},
    {"deepseek 32768", 32768, 7168, 2048, 4, 1},
};

struct Candidate {
  std::string what;
  double flops;  // 0: no product
  std::function<void()> run;
  std::vector<double> times = {};  // ms
};

at::TensorOptions bf16() { return at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA); }

class Clock {
 public:
  // ms of f on the current stream.
  double time(const std::function<void()>& f) {
    const c10::Stream stream = impl_.getStream(impl_.getDevice());
    c10::Event begin(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT),
        end(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    begin.record(stream);
    f();
    end.record(stream);
    end.synchronize();
    return begin.elapsedTime(end);
  }

 private:
  c10::impl::VirtualGuardImpl impl_{at::kCUDA};
};

// Each candidate 3 + 8 times a round, the candidates of a round in random order.
void measure(std::vector<Candidate>& candidates, int rounds) {
  Clock clock;
  std::mt19937 random(1);
  for (int round = 0; round < rounds; ++round) {
    std::shuffle(candidates.begin(), candidates.end(), random);
    for (Candidate& c : candidates) {
      for (int i = 0; i < 3; ++i) c.run();
      for (int i = 0; i < 8; ++i) c.times.push_back(clock.time(c.run));
    }
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const auto& a, const auto& b) { return a.what < b.what; });
}

void serve(const std::vector<Candidate>& candidates) {
  Clock clock;
  std::puts("ready");
  std::fflush(stdout);
  for (std::string what; std::getline(std::cin, what);) {
    const auto c = std::find_if(candidates.begin(), candidates.end(),
                                [&](const Candidate& c) { return c.what == what; });
    TORCH_CHECK(c != candidates.end(), "experts_bench: no candidate is called ", what);
    for (int i = 0; i < 3; ++i) c->run();
    for (int i = 0; i < 8; ++i) std::printf("%s%.5f", i ? ", " : "[", clock.time(c->run));
    std::puts("]");
    std::fflush(stdout);
  }
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<int64_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

void report(const Shape& s, const std::vector<Candidate>& candidates) {
  double gemm = 0;
  for (const Candidate& c : candidates)
    if (c.what == "gemm 8192^3") gemm = c.flops / median(c.times) / 1e9;
  for (const Candidate& c : candidates) {
    const double ms = median(c.times);
    std::printf("{\"shape\": \"%s\", \"what\": \"%s\", \"ms\": %.4f", s.name, c.what.c_str(), ms);
    if (c.flops > 0)
      std::printf(", \"tflops\": %.1f, \"of_gemm\": %.3f", c.flops / ms / 1e9,
                  c.flops / ms / 1e9 / gemm);
    std::printf("}\n");
  }
  std::fflush(stdout);
}

struct Options {
  std::string shape;
  int rounds = 8;
  bool skew = false, serve = false;
};

void run(const Shape& s, const Options& options) {
  using ops::GroupedKernel;
  const int64_t rows = s.tokens * s.top_k;
  const auto activation = s.gpt_oss ? ops::Activation::clamped_swiglu : ops::Activation::swiglu;
  const at::Tensor x = at::randn({s.tokens, s.hidden}, bf16());
  const at::Tensor w1 = at::randn({s.experts, 2 * s.ffn, s.hidden}, bf16()).mul_(0.02),
                   w2 = at::randn({s.experts, s.hidden, s.ffn}, bf16()).mul_(0.02);
  const at::Tensor bias = s.gpt_oss ? at::randn({s.experts, 2 * s.ffn}, bf16()) : at::Tensor();
  const at::Tensor weights = at::rand({rows}, bf16().dtype(at::kFloat)).add_(0.5);
  // The router's choice of a rank: equal loads, or unequal ones.
  at::Tensor logits = at::randn({s.tokens, s.experts}, bf16().dtype(at::kFloat));
  if (options.skew) logits.add_(at::randn({s.experts}, logits.options()));
  const ops::Routing routing = ops::route(logits, {}, {.top_k = std::min(s.top_k, s.experts)});
  const at::Tensor ids = options.skew && s.top_k <= s.experts
                             ? routing.ids
                             : ops::balanced_ids(s.tokens, s.top_k, s.experts, at::kCUDA);
  const ops::ExpertLayout layout = ops::expert_layout(ids, s.experts);
  const at::Tensor index = layout.pair.div(s.top_k, "floor").to(at::kInt),
                   ends = layout.offsets.slice(0, 1);
  const at::Tensor gathered = at::index_select(x, 0, index);
  const auto [h, a] = ops::grouped_up(x, index, w1, bias, weights, layout.offsets, activation);
  const at::Tensor dy = at::randn({rows, s.hidden}, bf16()),
                   dh = at::randn({rows, 2 * s.ffn}, bf16());
  at::Tensor dw1 = at::zeros(w1.sizes(), bf16().dtype(at::kFloat)),
             dw2 = at::zeros(w2.sizes(), bf16().dtype(at::kFloat)), narrow1 = at::zeros_like(w1),
             narrow2 = at::zeros_like(w2);
  // A dense layer's weight gradient.
  const at::Tensor wide = at::randn({s.tokens, 2 * s.hidden}, bf16());
  at::Tensor dense = at::zeros({2 * s.hidden, s.hidden}, bf16().dtype(at::kFloat)),
             narrow = at::zeros({2 * s.hidden, s.hidden}, bf16());
  const double dense_flops = 4. * static_cast<double>(s.tokens * s.hidden * s.hidden);
  const at::Tensor left = at::randn({8192, 8192}, bf16()), right = at::randn({8192, 8192}, bf16());

  const double down = 2. * static_cast<double>(rows * s.hidden * s.ffn), up = 2 * down;
  auto grouped_up = [&](GroupedKernel kernel) {
    return [&, kernel] {
      ops::grouped_up(x, index, w1, bias, weights, layout.offsets, activation, kernel);
    };
  };
  std::vector<Candidate> candidates = {
      {"gemm 8192^3", 2. * 8192 * 8192 * 8192, [&] { at::mm(left, right.t()); }},
      {"up: fused", up, grouped_up(GroupedKernel::fused)},
      {"up: gather + _grouped_mm + swiglu", up, grouped_up(GroupedKernel::aten)},
      {"up: _grouped_mm alone", up, [&] { at::_grouped_mm(gathered, w1.transpose(1, 2), ends); }},
      {"gather", 0, [&] { at::index_select(x, 0, index); }},
      {"swiglu", 0, [&, &h = h] { ops::swiglu(h, weights, activation); }},
      {"swiglu backward", 0,
       [&, &h = h, &a = a] { ops::swiglu_backward(a, h, weights, activation); }},
      {"down: _grouped_mm alone", down,
       [&, &a = a] { at::_grouped_mm(a, w2.transpose(1, 2), ends); }},
      {"down: forward", down, [&, &a = a] { ops::grouped_linear(a, w2, layout.offsets); }},
      {"down: input gradient", down,
       [&] { ops::grouped_linear_backward_input(dy, w2, layout.offsets); }},
      {"down: input gradient, _grouped_mm alone", down, [&] { at::_grouped_mm(dy, w2, ends); }},
      {"down: weight gradient, added to fp32", down,
       [&, &a = a] { ops::grouped_linear_backward_weight_(dw2, dy, a, layout.offsets); }},
      {"down: weight gradient, added to bf16", down,
       [&, &a = a] { ops::grouped_linear_backward_weight_(narrow2, dy, a, layout.offsets); }},
      {"down: weight gradient, _grouped_mm alone", down,
       [&, &a = a] { at::_grouped_mm(dy.t(), a, ends); }},
      {"up: input gradient", up,
       [&] { ops::grouped_linear_backward_input(dh, w1, layout.offsets); }},
      {"up: input gradient, _grouped_mm alone", up, [&] { at::_grouped_mm(dh, w1, ends); }},
      {"up: weight gradient, added to fp32", up,
       [&] { ops::grouped_linear_backward_weight_(dw1, dh, gathered, layout.offsets); }},
      {"up: weight gradient, added to bf16", up,
       [&] { ops::grouped_linear_backward_weight_(narrow1, dh, gathered, layout.offsets); }},
      {"up: weight gradient, _grouped_mm alone", up,
       [&] { at::_grouped_mm(dh.t(), gathered, ends); }},
      {"dense: weight gradient, alone", dense_flops, [&] { at::mm(wide.t(), x); }},
      {"dense: weight gradient, added to fp32", dense_flops,
       [&] { ops::linear_backward_weight_(dense, wide, x); }},
      {"dense: weight gradient, added to bf16", dense_flops,
       [&] { ops::linear_backward_weight_(narrow, wide, x); }},
      {"up: rows in place, fused", up,
       [&] { ops::grouped_up(gathered, {}, w1, bias, weights, layout.offsets, activation); }},
      {"expert layout", 0, [&] { ops::expert_layout(ids, s.experts); }},
      {"gather sum", 0, [&] { ops::gather_sum(dy, layout); }},
  };
  if (options.serve) return serve(candidates);
  measure(candidates, options.rounds);
  report(s, candidates);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg.rfind("--shape=", 0) == 0)
      options.shape = arg.substr(8);
    else if (arg.rfind("--rounds=", 0) == 0)
      options.rounds = std::atoi(arg.c_str() + 9);
    else if (arg == "--skew")
      options.skew = true;
    else if (arg == "--serve")
      options.serve = true;
    else
      return std::fprintf(stderr, "experts_bench: unknown argument %s\n", argv[i]), 2;
  }
  if (!at::hasCUDA()) return std::fprintf(stderr, "experts_bench: no CUDA device\n"), 0;
  for (const Shape& s : kShapes)
    if (std::string(s.name).find(options.shape) != std::string::npos) run(s, options);
}
