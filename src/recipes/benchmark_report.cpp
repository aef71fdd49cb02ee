#include "recipes/benchmark_report.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "base/human.h"
#include "base/text.h"
#include "plan/work.h"
#include "recipes/device.h"
#include "recipes/shape.h"

namespace conclave::recipes {
namespace {

long long ll(int64_t n) { return static_cast<long long>(n); }
std::string bytes(int64_t n) { return human_bytes(static_cast<double>(n)); }

// Not of the layers' forward and backward, as transformers' layers alone would be measured.
const std::set<std::string> kBesideLayers{
    "",          "dispatch, stand-in", "combine, stand-in", "head and loss",
    "embedding", "optimizer",          "zero gradients",    "batch"};

// Seconds that the work of a part takes at the rates measured in this run.
double floor_seconds(const plan::Work& w, const Rates& r) {
  return w.products / r.gemm + (r.attention > 0 ? w.scores / r.attention : 0) +
         (r.copy > 0 ? w.bytes / r.copy : 0);
}

// "612 TFLOP/s, 2.4 TB/s": what was done in that time.
std::string achieved(const plan::Work& w, double seconds) {
  std::vector<std::string> rates;
  const double flops = w.products + w.scores;
  if (flops > 0) rates.push_back(format("%.0f TFLOP/s", flops / seconds / 1e12));
  if (w.bytes > 0 && flops == 0) rates.push_back(format("%.2f TB/s", w.bytes / seconds / 1e12));
  return join(rates, ", ");
}

std::vector<std::pair<std::string, double>> longest_first(const TimeByPart& parts) {
  std::vector<std::pair<std::string, double>> rows(parts.busy.begin(), parts.busy.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return rows;
}

double layers_seconds(const TimeByPart& parts) {
  double sum = parts.idle;
  for (const auto& [name, seconds] : parts.busy)
    if (!kBesideLayers.contains(name)) sum += seconds;
  return sum;
}

void print_parts_of_cpu(const Figures& f) {
  std::printf("\n# Time by part\n");
  const auto line = [&](const std::string& name, double seconds) {
    std::printf("%-24s%10.4f s%8.1f %%\n", name.c_str(), seconds, 100 * seconds / f.mean());
  };
  for (const auto& [name, seconds] : longest_first(f.parts))
    line(name.empty() ? "the rest" : name, seconds);
  line("sum", f.parts.sum());
}

void print_parts_of_gpu(const RankShare& s, const BenchmarkConfig& c, const Figures& f) {
  const auto work = plan::work_by_part(s.shape, s.run, s.seq_len, c.batch.rows);
  std::printf(
      "\n# Time by part, of a step that is traced (%.3f s; not traced %.3f s)\n"
      "%-24s%10s%9s%12s%10s\n",
      f.traced, f.mean(), "", "ms", "of step", "possible", "reached");
  const auto line = [&](const std::string& name, double seconds) {
    std::printf("%-24s%10.2f%7.1f %%", name.c_str(), 1e3 * seconds, 100 * seconds / f.mean());
  };
  for (const auto& [name, seconds] : longest_first(f.parts)) {
    line(name.empty() ? "the rest: no part" : name, seconds);
    if (const auto w = work.find(name); w != work.end()) {
      const double least = floor_seconds(w->second, f.rates);
      std::printf("%12.2f%10.2f  %s", 1e3 * least, least / seconds,
                  achieved(w->second, seconds).c_str());
    }
    std::printf("\n");
  }
  if (c.cuda_graph) std::printf("(a recorded step is one launch: its kernels count to no part)\n");
  line("the rest: gaps", f.parts.idle);
  std::printf("\n");
  line("sum", f.parts.sum());
  std::printf("\n\n# Kernels that take the most of it\n");
  for (size_t i = 0; i < std::min<size_t>(f.kernels.size(), 30); ++i) {
    const KernelTime& k = f.kernels[i];
    std::printf("%10.2f ms%8lld x  %-22s %.110s\n", 1e3 * k.seconds, ll(k.count), k.part.c_str(),
                k.name.c_str());
  }
}

nlohmann::json parts_json(const TimeByPart& parts) {
  nlohmann::json j = nlohmann::json::object();
  for (const auto& [name, seconds] : parts.busy) j[name.empty() ? "the rest" : name] = seconds;
  if (parts.idle > 0) j["gaps"] = parts.idle;
  return j;
}

double waits_per_step(const Figures& f) {
  double sum = 0;
  for (const auto& [call, n] : f.waits) sum += n;
  return sum;
}

void add_traced_results(nlohmann::json& r, const RankShare& s, const BenchmarkConfig& c,
                        const Figures& f) {
  const plan::Flops flops = plan::flops_per_token(s.shape, s.seq_len);
  const double tokens = static_cast<double>(c.batch.rows * s.seq_len),
               layers = layers_seconds(f.parts),
               of_layers = tokens * static_cast<double>(flops.total() - flops.head) / layers;
  r["seconds_of_traced_step"] = f.traced;
  r["sum_of_parts"] = f.parts.sum();
  r["host_waits_per_step"] = waits_per_step(f);
  r["host_waits"] = f.waits;
  r["gaps"] = f.parts.idle / f.traced;
  r["layers_seconds"] = layers;
  r["layers_tflops"] = of_layers / 1e12;
  r["layers_of_gemm"] = of_layers / f.rates.gemm;
  nlohmann::json possible = nlohmann::json::object();
  for (const auto& [name, work] : plan::work_by_part(s.shape, s.run, s.seq_len, c.batch.rows))
    possible[name] = floor_seconds(work, f.rates);
  r["possible"] = possible;
  r["kernels"] = nlohmann::json::array();
  for (const KernelTime& k : f.kernels)
    r["kernels"].push_back({{"part", k.part},
                            {"name", k.name},
                            {"count", k.count},
                            {"seconds", k.seconds},
                            {"idle_before", k.idle}});
}

void add_gpu_results(nlohmann::json& r, const RankShare& s, const BenchmarkConfig& c,
                     const Figures& f) {
  if (const double peak = peak_flops(f.device); peak > 0)
    r["mfu"] = r["model_tflops"].get<double>() * 1e12 / peak;
  r["copy_bytes_per_second"] = f.rates.copy;
  r["attention_tflops"] = f.rates.attention / 1e12;
  r["memory_calls"] = f.memory_calls;
  r["reserved_memory_bytes"] = f.reserved;
  if (f.traced > 0) add_traced_results(r, s, c, f);
}

void print_gpu_results(const Figures& f, const nlohmann::json& r) {
  const auto number = [&](const char* key) { return r.at(key).get<double>(); };
  std::printf("memory taken       %s; %lld calls for more or less in the timed steps\n",
              bytes(f.reserved).c_str(), ll(f.memory_calls));
  std::printf("copy, attention    %.2f TB/s; %.0f TFLOP/s of cuDNN forward and backward\n",
              f.rates.copy / 1e12, f.rates.attention / 1e12);
  if (f.traced > 0) {
    std::printf("host waits         %.1f a step", waits_per_step(f));
    for (const auto& [call, n] : f.waits) std::printf("; %s %.1f", call.c_str(), n);
    std::printf("\ngaps               %.1f %% of a traced step\n", 100 * number("gaps"));
    std::printf(
        "layers alone       %.3f s, %.1f TFLOP/s, %.3f of GEMM: without stand-ins, head, "
        "optimizer\n",
        number("layers_seconds"), number("layers_tflops"), number("layers_of_gemm"));
  }
  std::printf("launch to step 1   %.1f s\n", f.first_step);
}

}  // namespace

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
  std::printf("\n# Memory, limit %s\n%s", bytes(s.limit).c_str(), s.forecast.table().c_str());
}

nlohmann::json results(const RankShare& s, const BenchmarkConfig& c, const Figures& f) {
  const auto flops = static_cast<double>(plan::flops_per_token(s.shape, s.seq_len).total());
  const double tokens = static_cast<double>(c.batch.rows * s.seq_len) / f.mean();
  nlohmann::json r{{"architecture", s.architecture},
                   {"device", f.device},
                   {"smaller", s.smaller},
                   {"gate", c.gate},
                   {"precision", c.precision},
                   {"layers", s.shape.layers.size()},
                   {"rows", c.batch.rows},
                   {"micro_rows", c.batch.micro_rows},
                   {"recompute", s.run.recompute},
                   {"seconds_per_step", f.mean()},
                   {"seconds_of_steps", f.seconds},
                   {"seconds_to_first_step", f.first_step},
                   {"tokens_per_second", tokens},
                   {"flops_per_token", flops},
                   {"model_tflops", tokens * flops / 1e12},
                   {"gemm_tflops", f.rates.gemm / 1e12},
                   {"of_gemm", tokens * flops / f.rates.gemm},
                   {"rows_received_per_token", f.rows_per_token},
                   {"beside_transfers", c.transfer.beside},
                   {"delays_per_step", f.delayed},
                   {"delay", {{"dispatch", c.transfer.dispatch}, {"combine", c.transfer.combine}}},
                   {"peak_memory_bytes", f.peak},
                   {"forecast_memory_bytes", s.forecast.total()},
                   {"cuda_graph", c.cuda_graph},
                   {"deterministic", c.deterministic},
                   {"losses", f.losses},
                   {"parts", parts_json(f.parts)}};
  if (f.device != "cpu") add_gpu_results(r, s, c, f);
  return r;
}

void print_results(const RankShare& s, const BenchmarkConfig& c, const Figures& f,
                   const nlohmann::json& r) {
  const bool gpu = f.device != "cpu";
  const auto number = [&](const char* key) { return r.at(key).get<double>(); };
  const auto [least, most] = std::minmax_element(f.seconds.begin(), f.seconds.end());
  if (gpu)
    std::printf("\n# Results on one %s\n", f.device.c_str());
  else
    std::printf("\n# Results on the CPU, of a smaller model: %s\n", s.smaller.c_str());
  std::printf("s/step             %.3f (%.3f to %.3f)\n", f.mean(), *least, *most);
  std::printf("tokens/s           %s\n", human_count(number("tokens_per_second")).c_str());
  std::printf(gpu ? "model TFLOP/s      %.1f\n" : "model TFLOP/s      %.4f\n",
              number("model_tflops"));
  std::printf("of GEMM            %.3f; a bf16 product of %lld runs at %.*f TFLOP/s\n",
              number("of_gemm"), ll(f.rates.gemm_size), gpu ? 1 : 4, number("gemm_tflops"));
  if (r.contains("mfu"))
    std::printf("MFU                %.3f of 989 TFLOP/s\n", number("mfu"));
  else
    std::printf("MFU                not known: the peak of this device is not\n");
  std::printf("rows received      %.2f a token\n", f.rows_per_token);
  if (f.delayed > 0)
    std::printf("delays             %.3f s in a step, for transfers; meanwhile: %s\n", f.delayed,
                c.transfer.beside.c_str());
  std::printf("peak memory        %s, forecast %s (%+.1f %%)\n", bytes(f.peak).c_str(),
              bytes(s.forecast.total()).c_str(),
              100 * (static_cast<double>(f.peak) / static_cast<double>(s.forecast.total()) - 1));
  if (gpu) print_gpu_results(f, r);
  if (c.layout.tokens_per_second > 0)
    std::printf(
        "published          %.0f tokens/s a GPU for the whole model: not to be compared "
        "with the above\n",
        c.layout.tokens_per_second);
  if (!gpu)
    print_parts_of_cpu(f);
  else if (f.traced > 0)
    print_parts_of_gpu(s, c, f);
}

}  // namespace conclave::recipes
