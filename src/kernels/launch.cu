#include <string>

#include "base/error.h"
#include "kernels/launch.h"

namespace conclave::kernels {
namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw RunError(std::string(what) + ": CUDA says " + cudaGetErrorString(error) + " (" +
                 cudaGetErrorName(error) + ")");
}

}  // namespace

void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

void synchronize(cudaStream_t stream) {
  check(cudaStreamSynchronize(stream), "waiting for the device");
}

int multiprocessors() {
  int device = 0, n = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device),
        "asking for the multiprocessors");
  return n;
}

}  // namespace conclave::kernels
