// Which plans cuDNN has for attention's forward and backward, with windows, sinks and in
// deterministic mode, and what each takes, beside what ops::attention does.
#include <ATen/Context.h>
#include <ATen/cudnn/Handle.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <string>

#include "ops/attention.h"
#include "ops/attention_cudnn_cuda.h"

namespace fe = cudnn_frontend;
using namespace conclave;

namespace {

at::TensorOptions gpu(at::ScalarType t = at::kBFloat16) {
  return at::TensorOptions(at::kCUDA).dtype(t);
}

double ms_of(const std::function<void()>& run, int times = 10) {
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (int i = 0; i < 3; ++i) run();
  cudaEventRecord(begin, stream);
  for (int i = 0; i < times; ++i) run();
  cudaEventRecord(end, stream);
  const cudaError_t error = cudaEventSynchronize(end);
  if (error != cudaSuccess) std::printf("   CUDA: %s\n", cudaGetErrorString(error));
  float ms = 0;
  cudaEventElapsedTime(&ms, begin, end);
  return ms / static_cast<float>(times);
}

struct Case {
  const char* name;
  int64_t b, h, kh, s, d, dv, window = 0;
  bool sinks = false;
};

struct Data {
  at::Tensor q, k, v, dout, out, lse, sinks;
  std::vector<int64_t> offsets;
  ops::AttentionOptions options;
};

Data data_of(const Case& c) {
  Data x;
  x.q = at::randn({c.b * c.s, c.h, c.d}, gpu());
  x.k = at::randn({c.b * c.s, c.kh, c.d}, gpu());
  x.v = at::randn({c.b * c.s, c.kh, c.dv}, gpu());
  x.dout = at::randn({c.b * c.s, c.h, c.dv}, gpu());
  if (c.sinks) x.sinks = at::randn({c.h}, gpu());
  for (int64_t i = 0; i <= c.b; ++i) x.offsets.push_back(i * c.s);
  x.options = {1 / std::sqrt(double(c.d)), c.window, x.sinks};
  auto [out, lse] = ops::attention(x.q, x.k, x.v, x.offsets, x.offsets, x.options);
  x.out = out, x.lse = lse;
  return x;
}

double off(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kFloat), y = b.to(at::kFloat);
  return x.sub(y).norm().div(y.norm()).item().toDouble();
}

double flops(const Case& c) {  // of the forward; the backward has 2.5 times as many
  const double keys = c.window ? double(c.window) : double(c.s) / 2;
  return 2.0 * double(c.b) * double(c.h) * double(c.s) * keys * double(c.d + c.dv);
}

using Attributes = fe::graph::Tensor_attributes;

std::shared_ptr<Attributes> tensor(fe::graph::Graph& g, int64_t uid, std::vector<int64_t> dims,
                                   std::vector<int64_t> strides,
                                   fe::DataType_t type = fe::DataType_t::BFLOAT16) {
  return g.tensor(Attributes().set_uid(uid).set_dim(dims).set_stride(strides).set_data_type(type));
}

void plans(const char* what, const Case& c, fe::graph::Graph& g,
           std::unordered_map<int64_t, void*> operands, const std::vector<at::Tensor>& results,
           const std::vector<at::Tensor>& expected, double work, bool list) {
  const auto handle = at::native::getCudnnHandle();
  auto status = g.validate();
  if (status.is_good()) status = g.build_operation_graph(handle);
  if (status.is_good())
    status = g.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
  if (status.is_bad()) {
    std::printf("  %s %s: none: %.300s\n", c.name, what, status.get_message().c_str());
    return;
  }
  for (int64_t i = 0; i < g.get_execution_plan_count() && (list || i == 0); ++i) {
    std::string name;
    (void)g.get_plan_name_at_index(i, name).is_good();
    const auto begin = std::chrono::steady_clock::now();
    status = g.build_plan_at_index(i);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (status.is_bad()) {
      std::printf("  %s %s %s: %.150s\n", c.name, what, name.c_str(), status.get_message().c_str());
      continue;
    }
    const int64_t bytes = g.get_workspace_size_plan_at_index(i);
    const at::Tensor workspace = at::empty({std::max<int64_t>(bytes, 1)}, gpu(at::kByte));
    auto run = [&] {
      auto s = g.execute_plan_at_index(handle, operands, workspace.data_ptr(), i);
      if (s.is_bad()) std::printf("  %s: %.300s\n", what, s.get_message().c_str());
    };
    for (const at::Tensor& r : results) r.fill_(0);
    run();
    std::string errors;
    for (size_t j = 0; j < results.size(); ++j)
      errors += " " + std::to_string(off(results[j], expected[j]));
    std::vector<at::Tensor> first;
    for (const at::Tensor& r : results) first.push_back(r.clone());
    bool same = true;
    for (int again = 0; again < 4; ++again) {
      run();
      for (size_t j = 0; j < results.size(); ++j) same = same && results[j].equal(first[j]);
    }
    const double ms = ms_of(run);
    std::printf(
        "  %s %s plan %d %s: %.3f ms %.0f TFLOP/s, workspace %.1f MiB, built in %.2f s, same bits "
        "%d, off%s\n",
        c.name, what, int(i), name.c_str(), ms, work / ms / 1e9, double(bytes) / 1048576, seconds,
        same, errors.c_str());
    std::fflush(stdout);
  }
}

void graph_of(fe::graph::Graph& g) {
  g.set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
}

void forward(const Case& c, const Data& x, bool list) {
  fe::graph::Graph g;
  graph_of(g);
  auto in = [&](int64_t uid, int64_t h, int64_t d) {
    return tensor(g, uid, {c.b, h, c.s, d}, {c.s * h * d, d, h * d, 1});
  };
  auto q = in(1, c.h, c.d), k = in(2, c.kh, c.d), v = in(3, c.kh, c.dv);
  auto a = fe::graph::SDPA_attributes()
               .set_name("forward")
               .set_generate_stats(true)
               .set_attn_scale(float(x.options.scale))
               .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
               .set_diagonal_band_right_bound(0);
  if (c.window) a.set_diagonal_band_left_bound(int(c.window));
  const at::Tensor sinks = c.sinks ? x.sinks.to(at::kFloat) : at::Tensor();
  if (c.sinks)
    a.set_sink_token(tensor(g, 6, {1, c.h, 1, 1}, {c.h, 1, 1, 1}, fe::DataType_t::FLOAT));
  auto [o, st] = g.sdpa(q, k, v, a);
  o->set_output(true)
      .set_uid(4)
      .set_dim({c.b, c.h, c.s, c.dv})
      .set_stride({c.s * c.h * c.dv, c.dv, c.h * c.dv, 1});
  st->set_output(true).set_uid(5).set_data_type(fe::DataType_t::FLOAT);
  st->set_dim({c.b, c.h, c.s, 1}).set_stride({c.h * c.s, c.s, 1, 1});
  const at::Tensor out = at::empty_like(x.out), lse = at::empty({c.b, c.h, c.s}, gpu(at::kFloat)),
                   stats = x.lse.view({c.h, c.b, c.s}).transpose(0, 1).contiguous();
  std::unordered_map<int64_t, void*> operands{{1, x.q.data_ptr()},
                                              {2, x.k.data_ptr()},
                                              {3, x.v.data_ptr()},
                                              {4, out.data_ptr()},
                                              {5, lse.data_ptr()}};
  if (c.sinks) operands.emplace(6, sinks.data_ptr());
  plans("forward", c, g, operands, {out, lse}, {x.out, stats}, flops(c), list);
}

void backward(Case c, const Data& x, bool deterministic, bool list, bool sinks_apart = false) {
  if (sinks_apart) c.sinks = false;
  fe::graph::Graph g;
  graph_of(g);
  auto in = [&](int64_t uid, int64_t h, int64_t d) {
    return tensor(g, uid, {c.b, h, c.s, d}, {c.s * h * d, d, h * d, 1});
  };
  auto q = in(1, c.h, c.d), k = in(2, c.kh, c.d), v = in(3, c.kh, c.dv), o = in(4, c.h, c.dv),
       dout = in(5, c.h, c.dv);
  auto st = tensor(g, 6, {c.b, c.h, c.s, 1}, {c.h * c.s, c.s, 1, 1}, fe::DataType_t::FLOAT);
  auto a = fe::graph::SDPA_backward_attributes()
               .set_name("backward")
               .set_attn_scale(float(x.options.scale))
               .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
               .set_diagonal_band_right_bound(0)
               .set_deterministic_algorithm(deterministic);
  if (c.window) a.set_diagonal_band_left_bound(int(c.window));
  const at::Tensor sinks = c.sinks ? x.sinks.to(at::kFloat) : at::Tensor();
  const at::Tensor dsinks = at::empty({c.h}, gpu(at::kFloat));
  if (c.sinks) {
    a.set_sink_token(tensor(g, 7, {1, c.h, 1, 1}, {c.h, 1, 1, 1}, fe::DataType_t::FLOAT));
    a.set_dsink_token(g.tensor(Attributes()
                                   .set_uid(8)
                                   .set_dim({1, c.h, 1, 1})
                                   .set_stride({c.h, 1, 1, 1})
                                   .set_output(true)
                                   .set_data_type(fe::DataType_t::FLOAT)));
  }
  auto [dq, dk, dv] = g.sdpa_backward(q, k, v, o, dout, st, a);
  dq->set_output(true).set_uid(9).set_dim(q->get_dim()).set_stride(q->get_stride());
  dk->set_output(true).set_uid(10).set_dim(k->get_dim()).set_stride(k->get_stride());
  dv->set_output(true).set_uid(11).set_dim(v->get_dim()).set_stride(v->get_stride());
  const at::Tensor stats = x.lse.view({c.h, c.b, c.s}).transpose(0, 1).contiguous(),
                   gq = at::empty_like(x.q), gk = at::empty_like(x.k), gv = at::empty_like(x.v);
  auto ours =
      ops::attention_backward(x.dout, x.q, x.k, x.v, x.out, x.lse, x.offsets, x.offsets, x.options);
  std::unordered_map<int64_t, void*> operands{
      {1, x.q.data_ptr()},   {2, x.k.data_ptr()},    {3, x.v.data_ptr()},
      {4, x.out.data_ptr()}, {5, x.dout.data_ptr()}, {6, stats.data_ptr()},
      {9, gq.data_ptr()},    {10, gk.data_ptr()},    {11, gv.data_ptr()}};
  std::vector<at::Tensor> results{gq, gk, gv}, expected{ours.dq, ours.dk, ours.dv};
  if (c.sinks) {
    operands.emplace(7, sinks.data_ptr());
    operands.emplace(8, dsinks.data_ptr());
    results.push_back(dsinks);
    expected.push_back(ours.dsinks);
  }
  plans(deterministic ? "deterministic backward" : "backward", c, g, operands, results, expected,
        2.5 * flops(c), list);
}

void deterministic_mode(bool on) {
  at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
}

void ours(const Case& c, const Data& x) {
  for (bool mode : {false, true}) {
    deterministic_mode(mode);
    const double f = ms_of([&] { ops::attention(x.q, x.k, x.v, x.offsets, x.offsets, x.options); }),
                 b = ms_of([&] {
                   ops::attention_backward(x.dout, x.q, x.k, x.v, x.out, x.lse, x.offsets,
                                           x.offsets, x.options);
                 });
    std::printf("%s, ops%s: forward %.3f ms %.0f TFLOP/s, backward %.3f ms %.0f TFLOP/s\n", c.name,
                mode ? " in deterministic mode" : "", f, flops(c) / f / 1e9, b,
                2.5 * flops(c) / b / 1e9);
  }
  deterministic_mode(false);
  if (!c.window)
    for (int64_t mib : {128, 256, 512, 1024, 2048, 4096}) {
      const ops::cuda::CudnnAttention n{c.b, c.s, c.h, c.kh, c.d, c.dv, x.options.scale};
      if (!ops::cuda::has_cudnn_deterministic(n, mib << 20)) continue;
      const at::Tensor stats = x.lse.view({c.h, c.b, c.s}).transpose(0, 1).contiguous();
      const double b = ms_of([&] {
        ops::cuda::cudnn_deterministic(n, x.dout, x.q, x.k, x.v, x.out, stats, mib << 20);
      });
      std::printf("%s, deterministic backward in %d MiB: %.3f ms %.0f TFLOP/s\n", c.name, int(mib),
                  b, 2.5 * flops(c) / b / 1e9);
    }
  std::fflush(stdout);
}

}  // namespace

int main() {
  c10::InferenceMode no_autograd;
  at::globalContext().setDeterministicFillUninitializedMemory(false);
  const Case cases[] = {{"gptoss window sinks", 2, 64, 8, 4096, 64, 64, 128, true},
                        {"gptoss sinks", 2, 64, 8, 4096, 64, 64, 0, true},
                        {"deepseek", 1, 128, 128, 4096, 192, 128},
                        {"qwen3", 2, 32, 4, 4096, 128, 128}};
  for (const Case& c : cases) {
    const Data x = data_of(c);
    ours(c, x);
    if (c.window || c.sinks) forward(c, x, false);
    backward(c, x, false, c.window > 0, true);
    if (c.window) backward(c, x, true, false, true);
    ours(c, x);
  }
}
