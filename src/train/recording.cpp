#include "train/recording.h"

#include <c10/util/Exception.h>

#include "train/graph_cuda.h"

namespace conclave::train {
namespace {

std::unique_ptr<Graph> make_graph(at::Device device) {
  TORCH_CHECK(device.is_cuda(), "recording: expected a CUDA device, got ", device);
#ifdef CONCLAVE_CUDA
  return cuda::make_graph(device);
#else
  TORCH_CHECK(false, "recording: this program was built without CUDA");
#endif
}

}  // namespace

Recording::Recording(at::Device device) : graph_(make_graph(device)) {}

void Recording::run(const std::function<void()>& work) {
  if (++runs_ <= kWarmUp) return graph_->run_beside(work);
  if (runs_ == kWarmUp + 1) graph_->record(work);
  graph_->replay();
}

}  // namespace conclave::train
