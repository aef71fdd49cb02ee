// A block of 256 threads copies whole rows, a row being one head of one key: thread t has pack t
// mod width of row t / width of its rows, so neighbours read and write neighbours. Rows are cut
// into blocks along x.
#include "kernels/mla.h"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256;

// This thread's row and pack of it, of `width`; false: none.
__device__ bool place(int width, int64_t rows, int64_t& row, int& pack) {
  const int held = kThreads / width, local = static_cast<int>(threadIdx.x) / width;
  row = static_cast<int64_t>(blockIdx.x) * held + local;
  pack = static_cast<int>(threadIdx.x) - local * width;
  return local < held && row < rows;
}

__global__ void __launch_bounds__(kThreads)
    forward_kernel(uint4* k, uint4* v, const uint4* kv, const uint4* k_rope, const MlaSizes s) {
  int64_t row;
  int pack;
  if (!place(s.nope + s.rope + s.v_dim, s.keys * s.heads, row, pack)) return;
  const uint4* from = kv + row * (s.nope + s.v_dim);
  const int turned = pack - s.nope, value = turned - s.rope;
  if (turned < 0)
    k[row * (s.nope + s.rope) + pack] = from[pack];
  else if (value < 0)
    k[row * (s.nope + s.rope) + pack] = k_rope[row / s.heads * s.rope + turned];
  else
    v[row * s.v_dim + value] = from[s.nope + value];
}

__global__ void __launch_bounds__(kThreads)
    backward_kernel(uint4* dkv, const uint4* dk, const uint4* dv, const MlaSizes s) {
  int64_t row;
  int pack;
  if (!place(s.nope + s.v_dim, s.keys * s.heads, row, pack)) return;
  dkv[row * (s.nope + s.v_dim) + pack] =
      pack < s.nope ? dk[row * (s.nope + s.rope) + pack] : dv[row * s.v_dim + pack - s.nope];
}

unsigned blocks(const MlaSizes& s, int width) {
  return static_cast<unsigned>(blocks_of(s.keys * s.heads, kThreads / width));
}

}  // namespace

void mla_keys_values(void* k, void* v, const void* kv, const void* k_rope, const MlaSizes& s,
                     cudaStream_t stream) {
  if (s.keys == 0) return;
  forward_kernel<<<blocks(s, s.nope + s.rope + s.v_dim), kThreads, 0, stream>>>(
      static_cast<uint4*>(k), static_cast<uint4*>(v), static_cast<const uint4*>(kv),
      static_cast<const uint4*>(k_rope), s);
  check_launch("mla_keys_values");
}

void mla_keys_values_backward(void* dkv, const void* dk, const void* dv, const MlaSizes& s,
                              cudaStream_t stream) {
  if (s.keys == 0) return;
  backward_kernel<<<blocks(s, s.nope + s.v_dim), kThreads, 0, stream>>>(
      static_cast<uint4*>(dkv), static_cast<const uint4*>(dk), static_cast<const uint4*>(dv), s);
  check_launch("mla_keys_values_backward");
}

}  // namespace conclave::kernels
