// CPU ops beside what a user would call instead in ATen. `ops_bench --benchmark_filter=linear`;
// threads by OMP_NUM_THREADS. Reports FLOP/s of products and, for the rest, B/s with each operand
// read or written once.
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>

#include "ops/attention.h"
#include "ops/dispatch.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace {
using benchmark::Counter;
using benchmark::State;
using namespace conclave;

at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes).to(dtype);
}

template <class F>
void run(State& state, const char* unit, double work, const F& f) {
  c10::InferenceMode no_autograd;
  for (auto _ : state) benchmark::DoNotOptimize(f());
  state.counters[unit] = Counter(work, Counter::kIsIterationInvariantRate);
}

// Sizes of the demo, and of a step with hidden 512 and vocabulary 8192: tokens, in, out.
struct Sizes {
  int64_t tokens, in, out;
};
constexpr Sizes kDense[] = {
    {1024, 512, 512}, {1024, 512, 128}, {1024, 512, 16}, {1024, 512, 8192}, {2048, 256, 768}};

void dense(at::ScalarType dtype, const std::string& type) {
  for (auto [tokens, in, out] : kDense) {
    const at::Tensor x = normal({tokens, in}, dtype), w = normal({out, in}, dtype),
                     dy = normal({tokens, out}, dtype);
    const at::Tensor dw = at::zeros({out, in});
    const double flops = 2.0 * double(tokens) * double(in) * double(out);
    const std::string at =
        type + "/" + std::to_string(tokens) + "x" + std::to_string(in) + "x" + std::to_string(out);
    auto add = [&](const std::string& name, auto f) {
      benchmark::RegisterBenchmark((name + at).c_str(), [=](State& s) {
        run(s, "FLOP/s", flops, f);
      })->UseRealTime();
    };
    add("linear/ours/", [=] { return ops::linear(x, w); });
    add("linear/aten/", [=] { return at::mm(x, w.t()); });
    add("linear_backward_input/ours/", [=] { return ops::linear_backward_input(dy, w); });
    add("linear_backward_input/aten/", [=] { return at::mm(dy, w); });
    add("linear_backward_weight/ours/",
        [=] { return ops::linear_backward_weight_(dw, dy, x), dw; });
    add("linear_backward_weight/aten/", [=] { return at::mm(dy.t(), x); });
  }
}

void grouped(at::ScalarType dtype, const std::string& type) {
  for (auto [rows, in, out] : {Sizes{4096, 512, 512}, {4096, 256, 512}, {2048, 256, 256}}) {
    constexpr int64_t kExperts = 16;
    std::vector<int64_t> offsets(
        kExperts + 1);  // uneven: the last expert gets three times what the first does
    for (int64_t e = 0; e <= kExperts; ++e)
      offsets[e] = rows * e * (kExperts + e) / (2 * kExperts * kExperts);
    const at::Tensor ends = at::tensor(offsets), ends32 = ends.slice(0, 1).to(at::kInt);
    const at::Tensor x = normal({rows, in}, dtype), w = normal({kExperts, out, in}, dtype),
                     dy = normal({rows, out}, dtype);
    const at::Tensor dw = at::zeros({kExperts, out, in});
    const double flops = 2.0 * double(rows) * double(in) * double(out);
    const std::string at =
        type + "/" + std::to_string(rows) + "x" + std::to_string(in) + "x" + std::to_string(out);
    auto add = [&](const std::string& name, auto f) {
      benchmark::RegisterBenchmark((name + at).c_str(), [=](State& s) {
        run(s, "FLOP/s", flops, f);
      })->UseRealTime();
    };
    add("grouped/ours/", [=] { return ops::grouped_linear(x, w, ends); });
    add("grouped/aten/", [=] { return at::_grouped_mm(x, w.transpose(1, 2), ends32); });
    add("grouped_backward_weight/ours/",
        [=] { return ops::grouped_linear_backward_weight_(dw, dy, x, ends), dw; });
    add("grouped_backward_weight/aten/", [=] { return at::_grouped_mm(dy.t(), x, ends32); });
  }
}

void rows(at::ScalarType dtype, const std::string& type) {
  constexpr int64_t kTokens = 4096, kHidden = 512, kTopK = 4;
  const at::Tensor x = normal({kTokens, kHidden}, dtype), weight = normal({kHidden}, dtype),
                   dy = normal({kTokens, kHidden}, dtype);
  const at::Tensor rstd = ops::rms_norm(x, weight, 1e-6).rstd,
                   gate_up = normal({kTokens, 2 * kHidden}, dtype);
  const double bytes = double(x.nbytes());
  auto add = [&](const std::string& name, double work, auto f) {
    benchmark::RegisterBenchmark((name + type).c_str(), [=](State& s) {
      run(s, "B/s", work, f);
    })->UseRealTime();
  };
  add("rms_norm/ours/", 2 * bytes, [=] { return ops::rms_norm(x, weight, 1e-6).y; });
  add("rms_norm/aten/", 2 * bytes, [=] { return at::rms_norm(x, {kHidden}, weight, 1e-6); });
  add("rms_norm_backward/ours/", 3 * bytes,
      [=] { return ops::rms_norm_backward(dy, x, rstd, weight).dx; });
  add("swiglu/ours/", 3 * bytes, [=] { return ops::swiglu(gate_up, {}); });
  add("swiglu/aten/", 3 * bytes,
      [=] { return at::silu(gate_up.slice(1, 0, kHidden)).mul(gate_up.slice(1, kHidden)); });
  add("swiglu_backward/ours/", 5 * bytes,
      [=] { return ops::swiglu_backward(dy, gate_up, {}).dgate_up; });
  const at::Tensor heads = x.view({kTokens, kHidden / 64, 64}),
                   positions = at::zeros({kTokens}, at::kLong);
  const ops::RotaryTable table = ops::rotary_table(1, 64, {.theta = 1e6}, dtype);
  add("rotary/ours/", 2 * bytes, [=] { return ops::rotary(heads, positions, table); });
  const ops::ExpertLayout layout =
      ops::expert_layout(std::get<1>(at::topk(at::randn({kTokens, 16}), kTopK)), 16);
  const at::Tensor routed = normal({kTokens * kTopK, kHidden}, dtype),
                   token = layout.pair.div(kTopK, "floor");
  add("gather_rows/ours/", (1 + kTopK) * bytes, [=] { return ops::gather_rows(x, layout); });
  add("gather_rows/aten/", (1 + kTopK) * bytes, [=] { return x.index_select(0, token); });
  add("gather_sum/ours/", (1 + kTopK) * bytes, [=] { return ops::gather_sum(routed, layout); });
  add("gather_sum/aten/", (1 + kTopK) * bytes, [=] {
    return at::zeros({kTokens, kHidden}, x.options()).index_add_(0, token, routed);
  });
  add("clone/aten/", 2 * bytes, [=] { return x.clone(); });
}

// Causal attention over one row, ours beside ATen's flash attention (which takes heads first and no
// sinks; a window only as a mask, so it has none here).
void attention(at::ScalarType dtype, const std::string& type) {
  struct Kind {
    const char* name;
    int64_t tokens, heads, kv_heads, head_dim, v_dim, window;
  };
  for (const Kind& c : {Kind{"grouped", 512, 8, 4, 64, 64, 0},
                        {"grouped", 2048, 8, 4, 64, 64, 0},
                        {"window", 2048, 8, 4, 64, 64, 128},
                        {"latent", 1024, 8, 8, 192, 128, 0}}) {
    const at::Tensor q = normal({c.tokens, c.heads, c.head_dim}, dtype),
                     k = normal({c.tokens, c.kv_heads, c.head_dim}, dtype),
                     v = normal({c.tokens, c.kv_heads, c.v_dim}, dtype),
                     dout = normal({c.tokens, c.heads, c.v_dim}, dtype);
    const std::vector<int64_t> docs{0, c.tokens};
    const ops::AttentionOptions options{.scale = 0.1, .window = c.window};
    const auto [out, lse] = ops::attention(q, k, v, docs, docs, options);
    const double w = double(c.window ? std::min(c.window, c.tokens) : c.tokens);
    const double pairs = w * double(c.tokens) - w * (w - 1) / 2;
    const double flops = 2 * pairs * double(c.heads * (c.head_dim + c.v_dim));
    auto add = [&](const std::string& name, double work, auto f) {
      benchmark::RegisterBenchmark(
          (name + type + "/" + c.name + "/" + std::to_string(c.tokens)).c_str(),
          [=](State& s) { run(s, "FLOP/s", work, f); })
          ->UseRealTime();
    };
    add("attention/ours/", flops, [=] { return ops::attention(q, k, v, docs, docs, options).out; });
    add("attention_backward/ours/", 2.5 * flops, [=, out = out, lse = lse] {
      return ops::attention_backward(dout, q, k, v, out, lse, docs, docs, options).dq;
    });
    if (c.window) continue;
    auto first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
    add("attention/aten/", flops, [=] {
      return at::scaled_dot_product_attention(first(q), first(k), first(v), {}, 0, true, 0.1, true);
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (auto [dtype, type] : {std::pair{at::kFloat, "fp32"}, {at::kBFloat16, "bf16"}}) {
    dense(dtype, type);
    grouped(dtype, type);
    rows(dtype, type);
    attention(dtype, type);
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
