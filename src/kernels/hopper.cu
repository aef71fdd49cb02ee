// No kernel here; a .cu because the room is made of them.
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <utility>

#include "kernels/hopper.h"
#include "kernels/launch.h"

namespace conclave::kernels {
namespace {

int current_device() {
  int device = 0;
  return cudaGetDevice(&device) == cudaSuccess ? device : -1;
}

// find(device) for a kernel, once a device; each find has its own answers.
template <class F>
int remembered(const void* kernel, const F& find) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> known;
  const std::pair key(kernel, current_device());
  const std::lock_guard lock(mutex);
  const auto at = known.find(key);
  return at != known.end() ? at->second : known[key] = find(key.second);
}

}  // namespace

bool has_hopper_code(const void* kernel) {
  return remembered(kernel, [&](int device) {
    if (device < 0) return 0;
    int major = 0, minor = 0;
    cudaFuncAttributes code{};
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return major == 9 && minor == 0 && cudaFuncGetAttributes(&code, kernel) == cudaSuccess &&
                   code.ptxVersion >= 90
               ? 1
               : 0;
  });
}

void allow_shared_memory(const void* kernel, int bytes) {
  remembered(kernel, [&](int) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    check_launch("shared memory of a kernel");
    return bytes;
  });
}

}  // namespace conclave::kernels
