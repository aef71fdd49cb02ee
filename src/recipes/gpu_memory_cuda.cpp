#include "recipes/gpu_memory_cuda.h"

#include <ATen/Context.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "base/error.h"

namespace conclave::recipes::cuda {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

struct OfDevice {
  size_t free = 0, total = 0;
};
OfDevice of_device() {
  OfDevice memory;
  C10_CUDA_CHECK(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

}  // namespace

int64_t free_memory() { return static_cast<int64_t>(of_device().free); }

void limit_memory(int64_t bytes, const std::string& message) {
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
  const double part = static_cast<double>(bytes) / static_cast<double>(of_device().total);
  allocator::setMemoryFraction(std::min(part, 1.0), c10::cuda::current_device());
  allocator::attachOutOfMemoryObserver(
      [message](int64_t, size_t, size_t, size_t) { throw RunError(message); });
}

Memory peak_memory() {
  const auto stats = allocator::getDeviceStats(c10::cuda::current_device());
  const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  return {stats.allocated_bytes[all].peak, stats.reserved_bytes[all].peak,
          stats.num_device_alloc + stats.num_device_free};
}

}  // namespace conclave::recipes::cuda
