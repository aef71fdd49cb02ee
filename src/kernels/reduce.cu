// A block takes 32 columns, thread (x, y) the parts y, y + 32, … of column x; then thread (x, 0)
// adds the 32 strands in order. Bytes: the parts once.
#include "kernels/pack.cuh"
#include "kernels/reduce.h"

namespace conclave::kernels {
namespace {

template <class A>
__global__ void __launch_bounds__(1024)
    sum_parts_kernel(A* out, const A* parts, int64_t blocks, int64_t columns, bool add) {
  __shared__ A strands[32][33];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  A sum = 0;
  if (column < columns)
    for (int64_t b = threadIdx.y; b < blocks; b += 32) sum += parts[b * columns + column];
  strands[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  A total = 0;
#pragma unroll
  for (int y = 0; y < 32; ++y) total += strands[y][threadIdx.x];
  out[column] = add ? out[column] + total : total;
}

}  // namespace

template <class A>
void sum_parts(A* out, const A* parts, int64_t blocks, int64_t columns, bool add,
               cudaStream_t stream) {
  if (columns == 0) return;
  sum_parts_kernel<<<static_cast<unsigned>(blocks_of(columns, 32)), dim3(32, 32), 0, stream>>>(
      out, parts, blocks, columns, add);
  check_launch("sum_parts");
}

template void sum_parts(float*, const float*, int64_t, int64_t, bool, cudaStream_t);
template void sum_parts(double*, const double*, int64_t, int64_t, bool, cudaStream_t);

}  // namespace conclave::kernels
