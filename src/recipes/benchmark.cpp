#include "recipes/benchmark.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/human.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parts.h"
#include "base/text.h"
#include "recipes/proxy_run.h"
#include "recipes/shape.h"
#include "recipes/threads.h"

namespace conclave::recipes {
namespace {

using PartSeconds = std::vector<std::pair<std::string, double>>;

struct Figures {
  std::vector<double> seconds;  // of the timed steps
  PartSeconds parts;            // a timed step
  double loss = 0, rows_per_token = 0, gemm = 0;
  uint64_t peak = 0;
  double mean() const {
    double sum = 0;
    for (double s : seconds) sum += s;
    return sum / static_cast<double>(seconds.size());
  }
};

long long ll(int64_t n) { return static_cast<long long>(n); }
std::string bytes(double n) { return human_bytes(n); }

void print_model(const RankShare& s) {
  const auto p = plan::parameters(s.whole);
  std::printf("# %s\nparameters  %s, of which a token meets %s\n", s.architecture.c_str(),
              parameter_count(p.total).c_str(), parameter_count(p.active).c_str());
  if (p.mtp)
    std::printf("            %s more of multi-token prediction, which is not run\n",
                parameter_count(p.mtp).c_str());
}

void print_flops(const plan::ModelShape& shape, int64_t seq_len) {
  std::printf("\n# FLOPs of a token, forward and backward, in rows of %lld\n%s", ll(seq_len),
              flops_table(plan::flops_per_token(shape, seq_len)).c_str());
}

// What the rank has, and what of the whole run is not there.
void print_share(const RankShare& s, const BenchmarkConfig& c) {
  const LayoutSection& l = c.layout;
  const auto layers = ll(static_cast<int64_t>(s.shape.layers.size()));
  std::printf("\n# One rank of %lld: pp %lld, vp %lld, ep %lld, dp_shard %lld\n", ll(l.gpus),
              ll(l.pp), ll(l.vp), ll(l.ep), ll(l.dp_shard));
  std::printf("layers      %lld of the %lld that it holds, %s\n", layers, ll(s.layers_held),
              s.share.ends ? "with embedding, head and loss"
                           : "all with experts, without embedding and head");
  int64_t experts = 0;
  for (const auto& layer : s.shape.layers) experts = std::max(experts, layer.experts);
  std::printf("experts     %lld of %lld; gate %s: about %.2f rows received a token\n",
              ll(experts / l.ep), ll(experts), c.gate.c_str(), s.run.received);
  std::printf("parameters  %s\n", parameter_count(plan::parameters(s.shape).total).c_str());
  std::printf("step        %lld sequences of %lld tokens, %lld at once\n", ll(c.batch.rows),
              ll(s.seq_len), ll(c.batch.micro_rows));
  std::printf(
      "precision   bf16 weights %s, %s gradients, bf16 moments, those of 1/%lld of all but "
      "the experts\n",
      s.run.master ? "with an exact fp32 master" : "alone", s.run.grad_bytes == 4 ? "fp32" : "bf16",
      ll(l.dp_shard));
  const std::vector<std::string> again(s.run.recompute.begin(), s.run.recompute.end());
  std::printf("made again  %s\n", again.empty() ? "nothing" : join(again, ", ").c_str());
  std::printf(
      "left out    all-to-all, weights' traffic, pipeline bubble and other micro-batches in "
      "flight, "
      "differences of load between ranks\n");
  std::printf("\n# Memory, limit %s\n%s", bytes(static_cast<double>(s.limit)).c_str(),
              s.forecast.table().c_str());
}

void add_seconds(PartSeconds& sum, const std::string& name, double seconds) {
  for (auto& [known, total] : sum)
    if (known == name) {
      total += seconds;
      return;
    }
  sum.emplace_back(name, seconds);
}

Figures measure(const RankShare& s, const BenchmarkConfig& c) {
  Figures f;
  ProxyRun run(s, c);
  PartTimer timer;
  std::printf("\n");
  for (int64_t i = 0; i < c.warmup + c.steps; ++i) {
    timer.clear();  // what is printed between steps is in none of them
    Timer step;
    f.loss = run.step(i);
    const PartSeconds parts = timer.seconds();
    const double seconds = step.seconds();
    if (i >= c.warmup) {
      f.seconds.push_back(seconds);
      for (const auto& [name, of_step] : parts)
        add_seconds(f.parts, name, of_step / static_cast<double>(c.steps));
    }
    std::printf(
        "step %lld/%lld  %.3f s  %s%s%s\n", ll(i + 1), ll(c.warmup + c.steps), seconds,
        human_rate(static_cast<double>(c.batch.rows * s.seq_len) / seconds, "tokens").c_str(),
        s.share.ends ? format("  loss %.4f", f.loss).c_str() : "", i < c.warmup ? "  warm-up" : "");
    std::fflush(stdout);
  }
  if (!c.profile.empty()) {
    PartTrace trace;
    run.step(c.warmup + c.steps);
    write_file_atomic(c.profile, trace.json());
  }
  f.rows_per_token = run.rows_per_token();
  f.peak = peak_resident_memory();
  f.gemm = gemm_rate(1024);
  return f;
}

nlohmann::json results(const RankShare& s, const BenchmarkConfig& c, const Figures& f) {
  const auto flops = static_cast<double>(plan::flops_per_token(s.shape, s.seq_len).total());
  const double tokens = static_cast<double>(c.batch.rows * s.seq_len) / f.mean();
  nlohmann::json parts = nlohmann::json::object();
  for (const auto& [name, seconds] : f.parts) parts[name.empty() ? "the rest" : name] = seconds;
  return {{"architecture", s.architecture},
          {"device", "cpu"},
          {"smaller", s.smaller},
          {"gate", c.gate},
          {"precision", c.precision},
          {"layers", s.shape.layers.size()},
          {"seconds_per_step", f.mean()},
          {"seconds_of_steps", f.seconds},
          {"tokens_per_second", tokens},
          {"flops_per_token", flops},
          {"model_tflops", tokens * flops / 1e12},
          {"gemm_tflops", f.gemm / 1e12},
          {"of_gemm", tokens * flops / f.gemm},
          {"rows_received_per_token", f.rows_per_token},
          {"peak_memory_bytes", f.peak},
          {"forecast_memory_bytes", s.forecast.total()},
          {"loss", f.loss},
          {"parts", parts}};
}

void print_results(const RankShare& s, const BenchmarkConfig& c, const Figures& f,
                   const nlohmann::json& r) {
  const auto number = [&](const char* key) { return r.at(key).get<double>(); };
  const auto [least, most] = std::minmax_element(f.seconds.begin(), f.seconds.end());
  std::printf("\n# Results on the CPU, of a smaller model: %s\n", s.smaller.c_str());
  std::printf("s/step             %.3f (%.3f to %.3f)\n", f.mean(), *least, *most);
  std::printf("tokens/s           %s\n", human_count(number("tokens_per_second")).c_str());
  std::printf("model TFLOP/s      %.4f\n", number("model_tflops"));
  std::printf("of GEMM            %.2f; a bf16 product of 1024 runs at %.4f TFLOP/s\n",
              number("of_gemm"), number("gemm_tflops"));
  std::printf("MFU                not known: the peak of this device is not\n");
  std::printf("rows received      %.2f a token\n", f.rows_per_token);
  std::printf("peak memory        %s, forecast %s\n", bytes(static_cast<double>(f.peak)).c_str(),
              bytes(static_cast<double>(s.forecast.total())).c_str());
  if (c.layout.tokens_per_second > 0)
    std::printf(
        "published          %.0f tokens/s a GPU for the whole model: not to be compared "
        "with the above\n",
        c.layout.tokens_per_second);
  double sum = 0;
  PartSeconds parts = f.parts;
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::printf("\n# Time by part\n");
  const auto line = [&](const std::string& name, double seconds) {
    std::printf("%-24s%10.4f s%8.1f %%\n", name.c_str(), seconds, 100 * seconds / f.mean());
  };
  for (const auto& [name, seconds] : parts) {
    line(name.empty() ? "the rest" : name, seconds);
    sum += seconds;
  }
  line("sum", sum);
}

}  // namespace

int benchmark(const std::string& config_path, const std::vector<std::string>& sets, bool dry_run) {
  const auto config = read_config<BenchmarkConfig>(config_path, sets, "benchmark");
  const BenchmarkConfig& c = config.value;
  const RankShare share = rank_share(c, config.source, /*for_cpu=*/!dry_run);
  print_model(share);
  if (dry_run) {
    print_flops(share.whole, share.seq_len);
    print_share(share, c);
    return 0;
  }
  use_threads(c.threads);
  return_large_blocks();
  log_info("no GPU is used: a smaller model runs on the CPU (" + share.smaller + ")");
  print_flops(share.shape, share.seq_len);
  print_share(share, c);
  const Figures figures = measure(share, c);
  const nlohmann::json r = results(share, c, figures);
  print_results(share, c, figures, r);
  if (!c.output.empty()) write_file_atomic(c.output, r.dump(2) + "\n");
  return 0;
}

}  // namespace conclave::recipes
