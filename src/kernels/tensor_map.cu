// No kernel here; a .cu because the room is made of them.
#include <cuda_runtime_api.h>

#include <string>

#include "base/error.h"
#include "kernels/tensor_map.h"

namespace conclave::kernels {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, without linking to the driver.
Encode encode_tiled() {
  static const Encode encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    const bool ok = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000,
                                                     cudaEnableDefault, &found) == cudaSuccess &&
                    found == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<Encode>(f) : nullptr;
  }();
  return encode;
}

}  // namespace

void tensor_map(CUtensorMap* map, const void* data, std::initializer_list<int64_t> sizes,
                std::initializer_list<int> box, MapOf elements) {
  const bool bf16 = elements == MapOf::bf16;
  cuuint64_t size[3], stride[2];
  cuuint32_t length[3], step[3] = {1, 1, 1}, dims = 0;
  std::string described;
  for (int64_t n : sizes) {
    size[dims] = static_cast<cuuint64_t>(n);
    if (dims > 0) stride[dims - 1] = (dims > 1 ? stride[dims - 2] : bf16 ? 2 : 4) * size[dims - 1];
    length[dims] = static_cast<cuuint32_t>(box.begin()[dims]);
    described += (dims ? ", " : "") + std::to_string(n);
    ++dims;
  }
  const Encode encode = encode_tiled();
  const CUresult result =
      encode
          ? encode(map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                   dims, const_cast<void*>(data), size, stride, length, step,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
          : CUDA_ERROR_NOT_FOUND;
  if (result != CUDA_SUCCESS)
    throw RunError("tensor map of [" + described + "]: cuTensorMapEncodeTiled says " +
                   std::to_string(result));
}

}  // namespace conclave::kernels
