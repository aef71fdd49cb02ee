#include "recipes/measure_cuda.h"

#include <c10/cuda/CUDAFunctions.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/human.h"
#include "base/process.h"
#include "base/text.h"
#include "base/timer.h"
#include "recipes/device.h"
#include "recipes/gpu_memory_cuda.h"
#include "recipes/gpu_rates_cuda.h"
#include "recipes/gpu_tracer.h"
#include "recipes/proxy_run.h"

namespace conclave::recipes::cuda {
namespace {

std::string out_of_memory(const RankShare& s, const BenchmarkConfig& c) {
  auto rows = s.forecast.rows;
  const auto third = rows.begin() + std::min<ptrdiff_t>(3, static_cast<ptrdiff_t>(rows.size()));
  std::partial_sort(rows.begin(), third, rows.end(),
                    [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  std::vector<std::string> largest;
  for (auto r = rows.begin(); r != third; ++r)
    largest.push_back(r->what + " " + human_bytes(static_cast<double>(r->bytes)));
  return format(
      "the GPU's memory is used up: a step needs more than the limit of %s (forecast %s; "
      "the most of it: %s); set batch.micro_rows below %lld, fewer layers, or more to "
      "recompute",
      human_bytes(static_cast<double>(s.limit)).c_str(),
      human_bytes(static_cast<double>(s.forecast.total())).c_str(), join(largest, ", ").c_str(),
      static_cast<long long>(c.batch.micro_rows));
}

// Adds traced steps, in the mean of which the parts are.
void trace_steps(ProxyRun& run, const BenchmarkConfig& c, Figures& f) {
  const auto steps = static_cast<double>(c.traced_steps);
  for (int64_t i = 0; i < c.traced_steps; ++i) {
    GpuTracer tracer;
    run.step(c.warmup + c.steps + i);
    const Timeline t = tracer.finish();
    if (i == 0 && !c.profile.empty()) write_file_atomic(c.profile, trace_json(t));
    const TimeByPart parts = time_by_part(t);
    for (const auto& [name, seconds] : parts.busy) f.parts.busy[name] += seconds / steps;
    f.parts.idle += parts.idle / steps;
    f.traced += t.seconds / steps;
    for (const auto& [name, n] : t.waits) f.waits[name] += static_cast<double>(n) / steps;
    if (i == 0) f.kernels = kernels_by_time(t);
  }
}

// Times, losses, peak and parts of the run's steps; the rank share and a recording's memory are
// gone afterwards.
void run_steps(const RankShare& s, const BenchmarkConfig& c, at::Device device, Figures& f) {
  int64_t calls = 0;
  ProxyRun run(s, c, device);
  for (int64_t i = 0; i < c.warmup + c.steps; ++i) {
    c10::cuda::device_synchronize();
    if (i == c.warmup) calls = peak_memory().calls;
    Timer step;
    run.step(i);
    c10::cuda::device_synchronize();
    const double seconds = step.seconds();
    if (i == 0) f.first_step = seconds_since_launch();
    const double loss = run.loss();
    if (i >= c.warmup) f.seconds.push_back(seconds), f.losses.push_back(loss);
    print_step(s, c, i, seconds, loss);
  }
  const Memory memory = peak_memory();
  f.peak = memory.allocated, f.reserved = memory.reserved;
  f.memory_calls = memory.calls - calls;
  trace_steps(run, c, f);
  f.rows_per_token = run.rows_per_token();
  f.delayed = run.delayed() / static_cast<double>(c.warmup + c.steps + c.traced_steps);
}

}  // namespace

Figures measure(const RankShare& s, const BenchmarkConfig& c, at::Device device) {
  Figures f{.device = device_name(device)};
  limit_memory(s.limit, out_of_memory(s, c));
  run_steps(s, c, device, f);
  const plan::LayerShape& layer = s.shape.layers.back();
  f.rates = {.gemm = gemm_rate(8192),
             .gemm_size = 8192,
             .copy = copy_rate(),
             .attention = attention_rate(layer, s.seq_len, c.batch.micro_rows)};
  return f;
}

}  // namespace conclave::recipes::cuda
