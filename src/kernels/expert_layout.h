// From the experts that tokens chose to the order in which experts get the rows: counts, prefix
// sums, the expert-major list and its inverse. Three launches, no host sync; the order within an
// expert is that of the tokens.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

struct ExpertLayout {
  const int64_t* ids;  // [tokens · top_k], each in 0 … experts − 1 (the kernel stops otherwise)
  int64_t routed;      // tokens · top_k < 2^31
  int experts;         // at most kMostExperts
  int32_t* offsets;    // out [experts + 1]: expert e has rows offsets[e] … offsets[e + 1)
  int32_t* pair;       // out [routed]: row r carries pair pair[r] = token · top_k + slot
  int32_t* row;        // out [routed]: the row that carries a pair
  int32_t* counts;     // scratch [expert_layout_blocks(routed) · experts]
};

constexpr int kMostExperts = 768;
int64_t expert_layout_blocks(int64_t routed);
// Bytes: 8 + 4 + 4 a pair and a second reading of the ids.
void expert_layout(const ExpertLayout& p, cudaStream_t stream);

}  // namespace conclave::kernels
