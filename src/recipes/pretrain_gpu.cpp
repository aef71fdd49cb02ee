#include "recipes/pretrain_gpu.h"

#include <algorithm>

#include "base/human.h"
#include "base/text.h"
#include "recipes/deterministic.h"
#include "recipes/device.h"
#include "recipes/dry_run.h"
#include "recipes/measure.h"

namespace conclave::recipes {
namespace {

std::string bytes(int64_t n) { return human_bytes(static_cast<double>(n)); }

}  // namespace

std::string out_of_memory_message(const PretrainConfig& c, const plan::MemoryForecast& forecast) {
  auto rows = forecast.rows;
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  rows.resize(std::min<size_t>(rows.size(), 3));
  std::vector<std::string> largest, changes;
  const auto add_change = [&](const std::string& change) {
    if (std::find(changes.begin(), changes.end(), change) == changes.end())
      changes.push_back(change);
  };
  for (const auto& row : rows) {
    largest.push_back(row.what + " " + bytes(row.bytes));
    const std::string prefix = "activations: ";
    if (row.what.starts_with(prefix)) {
      const std::string name = row.what.substr(prefix.size());
      const auto& classes = recomputable_names();
      if (std::find(classes.begin(), classes.end(), name) != classes.end())
        add_change("put " + name + " into memory.recompute");
    }
    if (row.what == "weights" || row.what == "gradients" || row.what == "optimizer moments")
      add_change(c.dtype == "fp32" ? "set dtype to bf16" : "make the model smaller");
  }
  if (c.batch.micro_rows > 1)
    add_change(
        format("set batch.micro_rows below %lld", static_cast<long long>(c.batch.micro_rows)));
  else
    add_change("make data.seq_len smaller");
  return format("the GPU's memory is used up: the forecast was %s, the most of it %s; %s",
                bytes(forecast.total()).c_str(), join(largest, ", ").c_str(),
                join(changes, ", or ").c_str());
}

void prepare_gpu(const PretrainConfig& c, const plan::MemoryForecast& forecast) {
  if (c.deterministic) use_deterministic_algorithms();
  limit_device_memory(free_memory(at::kCUDA), out_of_memory_message(c, forecast));
}

GpuFigures::GpuFigures(at::Device device, const plan::ModelShape& shape, int64_t seq_len, int ranks)
    : device_(device_name(device)), peak_flops_(peak_flops(device_)) {
  const plan::Flops flops = plan::flops_per_token(shape, seq_len);
  flops_per_token_ = static_cast<double>(flops.total() + flops.mtp) / ranks;
}

std::string GpuFigures::text(double tokens_per_second) const {
  const double flops = tokens_per_second * flops_per_token_;
  std::string text = format("%.3g TFLOP/s", flops / 1e12);
  if (peak_flops_ > 0) text += format(", MFU %.1f %%", 100 * flops / peak_flops_);
  return text + ", " + bytes(peak_device_memory());
}

void GpuFigures::add_to(nlohmann::json& s) const {
  const double flops = s.at("tokens_per_second").get<double>() * flops_per_token_;
  s["device"] = device_;
  s["model_tflops"] = flops / 1e12;
  if (peak_flops_ > 0) s["mfu"] = flops / peak_flops_;
  s["peak_host_memory_bytes"] = s["peak_memory_bytes"];
  s["peak_memory_bytes"] = peak_device_memory();
}

}  // namespace conclave::recipes
