// Records what the GPU does, as CUPTI's activity records say it. In CUDA builds alone.
#pragma once
#include <memory>

#include "base/parts.h"
#include "recipes/timeline.h"

namespace conclave::recipes {

// From its construction to finish(), both of which wait for the device, kernels, copies and fills
// are recorded with the part in which this thread launched them; those of a graph's launch count
// to the part of the launch. Parts are NVTX ranges meanwhile, for other tools. One at a time. A
// kernel costs some microseconds more to launch, none to run.
class GpuTracer final : public PartObserver {
 public:
  GpuTracer();
  ~GpuTracer() override;
  void enter(const char* part) override;
  Timeline finish();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::recipes
