#include "ops/expert_layout_cuda.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/expert_layout.h"

namespace conclave::ops::cuda {

ExpertLayout expert_layout(const at::Tensor& ids, int64_t experts) {
  const int64_t routed = ids.numel();
  TORCH_CHECK(experts >= 1 && experts <= kernels::kMostExperts && routed < (int64_t{1} << 31),
              "expert_layout: expected 1 … ", kernels::kMostExperts,
              " experts and fewer than 2^31 pairs on CUDA, got ", experts, " and ", routed);
  const at::TensorOptions integer = ids.options().dtype(at::kInt);
  ExpertLayout out{at::empty({experts + 1}, integer), at::empty({routed}, integer),
                   at::empty(ids.sizes(), integer)};
  const at::Tensor counts = at::empty({kernels::expert_layout_blocks(routed), experts}, integer);
  kernels::ExpertLayout p;
  p.ids = ids.const_data_ptr<int64_t>();
  p.routed = routed;
  p.experts = static_cast<int>(experts);
  p.offsets = out.offsets.data_ptr<int32_t>();
  p.pair = out.pair.data_ptr<int32_t>();
  p.row = out.row.data_ptr<int32_t>();
  p.counts = counts.data_ptr<int32_t>();
  kernels::expert_layout(p, c10::cuda::getCurrentCUDAStream());
  return out;
}

}  // namespace conclave::ops::cuda
