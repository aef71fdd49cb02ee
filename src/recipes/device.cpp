#include "recipes/device.h"

#include <ATen/Context.h>

#include "base/error.h"
#include "base/log.h"
#include "recipes/device_cuda.h"
#include "recipes/gpu_memory_cuda.h"

namespace conclave::recipes {
at::Device choose_device(const std::string& name, const std::string& where) {
  if (name != "auto" && name != "cpu" && name != "cuda")
    throw ConfigError(where + ": expected auto, cpu or cuda, got `" + name + "`");
  const bool there = kCudaBuild && at::hasCUDA();
  if (name == "cuda" && !there)
    throw ConfigError(where + ": cuda, but " +
                      (kCudaBuild ? "there is no GPU that the driver shows to this process"
                                  : "this program was built without CUDA") +
                      "; set it to cpu, or to auto");
  if (name == "cpu" || !there) return at::kCPU;
  const at::Device gpu(at::kCUDA, 0);
  log_info("on the GPU, " + device_name(gpu));
  return gpu;
}

at::Device choose_device(const std::string& name, const std::string& where, at::ScalarType dtype) {
  if (dtype != at::kDouble) return choose_device(name, where);
  if (name == "cuda")
    throw ConfigError(where +
                      ": cuda, but fp64 runs on the CPU alone; set it to cpu, or another type");
  return choose_device(name == "auto" ? "cpu" : name, where);
}

std::string device_name(at::Device device) {
  if constexpr (kCudaBuild)
    if (device.is_cuda()) return cuda::device_name(device);
  return "CPU";
}

double peak_flops(const std::string& device_name) {
  const bool hopper = device_name.find("H100") != std::string::npos ||
                      device_name.find("H200") != std::string::npos;
  return hopper ? 989e12 : 0;
}

void limit_device_memory(int64_t bytes, const std::string& message) {
  if constexpr (kCudaBuild) cuda::limit_memory(bytes, message);
}

int64_t peak_device_memory() {
  if constexpr (kCudaBuild) return cuda::peak_memory().allocated;
  return 0;
}

}  // namespace conclave::recipes
