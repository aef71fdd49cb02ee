// Work on a GPU that is recorded once and then launched as a whole (a CUDA graph): what it costs
// the host no longer depends on how many kernels it is.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

namespace conclave::train {

class Graph {  // what the device keeps of the recording
 public:
  virtual ~Graph() = default;
  // On a stream of its own, which the current stream waits for.
  virtual void run_beside(const std::function<void()>& work) = 0;
  virtual void record(const std::function<void()>& work) = 0;
  virtual void replay() = 0;  // on the current stream
};

class Recording {
 public:
  static constexpr int kWarmUp = 2;  // runs before the recording: libraries set themselves up

  // A CUDA device; throws in a program without CUDA.
  explicit Recording(at::Device device);

  // Runs `work`, as it is the first kWarmUp times, then recorded. It is the same work each time:
  // kernels on the current stream alone, no wait for the device and no copy from or to the host,
  // on tensors that live as long as this. Tensors that it makes hold the results of the last run.
  void run(const std::function<void()>& work);

 private:
  std::unique_ptr<Graph> graph_;
  int runs_ = 0;
};

}  // namespace conclave::train
