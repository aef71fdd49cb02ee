#include "train/graph_cuda.h"

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

namespace conclave::train::cuda {
namespace {

class CudaGraph final : public Graph {
 public:
  explicit CudaGraph(at::Device device)
      : stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {}

  void run_beside(const std::function<void()>& work) override {
    const c10::cuda::CUDAStream outer = c10::cuda::getCurrentCUDAStream(stream_.device_index());
    after(outer, stream_);
    {
      const c10::cuda::CUDAStreamGuard guard(stream_);
      work();
    }
    after(stream_, outer);
  }

  void record(const std::function<void()>& work) override {
    // What the runs before it left unused would lie beside the recording's own memory.
    stream_.synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    run_beside([&] {
      // Other threads may go on allocating.
      graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
      work();
      graph_.capture_end();
    });
  }

  void replay() override { graph_.replay(); }

 private:
  // What comes on `later` from now on waits for what is on `earlier`.
  static void after(const c10::cuda::CUDAStream& earlier, const c10::cuda::CUDAStream& later) {
    at::cuda::CUDAEvent event;
    event.record(earlier);
    event.block(later);
  }

  c10::cuda::CUDAStream stream_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace

std::unique_ptr<Graph> make_graph(at::Device device) { return std::make_unique<CudaGraph>(device); }

}  // namespace conclave::train::cuda
