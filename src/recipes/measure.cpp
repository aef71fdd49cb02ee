#include "recipes/measure.h"

#include <cstdio>
#include <numeric>

#include "base/files.h"
#include "base/human.h"
#include "base/memory.h"
#include "base/parts.h"
#include "base/process.h"
#include "base/text.h"
#include "recipes/device.h"
#include "recipes/gpu_memory_cuda.h"
#include "recipes/measure_cuda.h"
#include "recipes/proxy_run.h"

namespace conclave::recipes {
namespace {

long long ll(int64_t n) { return static_cast<long long>(n); }

}  // namespace

void print_step(const RankShare& s, const BenchmarkConfig& c, int64_t index, double seconds,
                double loss) {
  std::printf("step %lld/%lld  %.3f s  %s%s%s\n", ll(index + 1), ll(c.warmup + c.steps), seconds,
              human_rate(static_cast<double>(c.batch.rows * s.seq_len) / seconds, "tokens").c_str(),
              s.share.ends ? format("  loss %.4f", loss).c_str() : "",
              index < c.warmup ? "  warm-up" : "");
  std::fflush(stdout);
}

namespace {

Figures measure_on_cpu(const RankShare& s, const BenchmarkConfig& c) {
  Figures f;
  ProxyRun run(s, c, at::kCPU);
  PartTimer timer;
  std::vector<std::pair<std::string, double>> parts;
  for (int64_t i = 0; i < c.warmup + c.steps; ++i) {
    i == c.warmup ? timer.clear() : timer.skip();  // what is printed between steps is in none
    Timer step;
    run.step(i);
    const double loss = run.loss();
    parts = timer.seconds();
    const double seconds = step.seconds();
    if (i == 0) f.first_step = seconds_since_launch();
    if (i >= c.warmup) f.seconds.push_back(seconds), f.losses.push_back(loss);
    print_step(s, c, i, seconds, loss);
  }
  for (const auto& [name, seconds] : parts)
    f.parts.busy[name] = seconds / static_cast<double>(c.steps);
  if (!c.profile.empty()) {
    PartTrace trace;
    run.step(c.warmup + c.steps);
    write_file_atomic(c.profile, trace.json());
  }
  f.rows_per_token = run.rows_per_token();
  f.delayed = run.delayed() / static_cast<double>(c.warmup + c.steps + (c.profile.empty() ? 0 : 1));
  f.peak = static_cast<int64_t>(peak_resident_memory());
  f.rates = {.gemm = gemm_rate(1024), .gemm_size = 1024};
  return f;
}

}  // namespace

double Figures::mean() const {
  return std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(seconds.size());
}

Figures measure(const RankShare& share, const BenchmarkConfig& c, at::Device device) {
  std::printf("\n");
  if constexpr (kCudaBuild)
    if (device.is_cuda()) return cuda::measure(share, c, device);
  return measure_on_cpu(share, c);
}

int64_t free_memory(at::Device device) {
  if constexpr (kCudaBuild)
    if (device.is_cuda()) return cuda::free_memory();
  return static_cast<int64_t>(available_memory());
}

}  // namespace conclave::recipes
