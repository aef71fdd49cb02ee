// The choice between the CPU's code and CUDA's. Each op checks its operands once, then
//   if constexpr (kCudaBuild)
//     if (x.is_cuda()) return cuda::op(x);
// where cuda::op stands in op_cuda.cpp, which builds without CUDA leave out. Private to ops/.
#pragma once

namespace conclave::ops {

#ifdef CONCLAVE_CUDA
inline constexpr bool kCudaBuild = true;
#else
inline constexpr bool kCudaBuild = false;
#endif

}  // namespace conclave::ops
