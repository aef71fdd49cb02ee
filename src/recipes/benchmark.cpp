#include "recipes/benchmark.h"

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "recipes/benchmark_report.h"
#include "recipes/deterministic.h"
#include "recipes/device.h"
#include "recipes/measure.h"
#include "recipes/threads.h"

namespace conclave::recipes {

int benchmark(const std::string& config_path, const std::vector<std::string>& sets, bool dry_run) {
  const auto config = read_config<BenchmarkConfig>(config_path, sets, "benchmark");
  const BenchmarkConfig& c = config.value;
  if (dry_run) {
    const RankShare share = rank_share(c, config.source, ShareOf::full_size, free_memory(at::kCPU));
    print_model(share);
    print_flops(share.whole, share.seq_len);
    print_share(share, c);
    return 0;
  }
  for (const std::string& path : {c.output, c.profile})  // not found out after the run
    if (!path.empty()) make_folder(parent_folder(path));
  use_threads(c.threads);
  if (c.deterministic) use_deterministic_algorithms();
  return_large_blocks();
  const at::Device device = choose_device(c.device, config.source.location("device"));
  const RankShare share = rank_share(
      c, config.source, device.is_cuda() ? ShareOf::full_size : ShareOf::cpu, free_memory(device));
  print_model(share);
  if (!share.smaller.empty())
    log_info("no GPU is used: a smaller model runs on the CPU (" + share.smaller + ")");
  print_flops(share.shape, share.seq_len);
  print_share(share, c);
  const Figures figures = measure(share, c, device);
  const nlohmann::json r = results(share, c, figures);
  print_results(share, c, figures, r);
  if (!c.output.empty()) write_file_atomic(c.output, r.dump(2) + "\n");
  return 0;
}

}  // namespace conclave::recipes
