// How much of a GPU's memory tensors may take, and took.
#pragma once
#include <cstdint>
#include <string>

namespace conclave::recipes::cuda {

int64_t free_memory();  // bytes that could be allocated now

// Tensors may take so many bytes; what is more throws RunError(message). Before the first of them:
// memory is taken in segments that grow, so that less is lost between tensors.
void limit_memory(int64_t bytes, const std::string& message);

struct Memory {
  int64_t allocated, reserved;  // bytes at most, of tensors and of what was taken for them
  int64_t calls;                // to the driver so far, for more or to give back
};
Memory peak_memory();

}  // namespace conclave::recipes::cuda
